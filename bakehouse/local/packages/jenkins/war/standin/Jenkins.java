package standin;

import java.awt.Font;
import java.awt.font.FontRenderContext;
import java.io.FileOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;

/**
 * Bakehouse's stand-in for Jenkins: it boots like Jenkins and does nothing else.
 *
 * <p>In the order of the genuine one: unpack the war, load the fonts, listen, make the home, say that it is ready.
 */
final class Jenkins {
    /** How long "Starting Jenkins" is shown: much shorter than the genuine one, long enough to be met. */
    private static final Duration LOADING = Duration.ofMillis(1500);

    private Jenkins() {}

    /** Boots, and leaves the HTTP server's threads running. */
    static void start(List<String> arguments) throws Exception {
        Options options = Options.parse(arguments);
        Path war = Path.of(Jenkins.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        String version = Jenkins.class.getPackage().getImplementationVersion();
        if (options.has("version")) {
            System.out.println(version);
            return;
        }
        if (options.has("logfile")) {
            PrintStream log = new PrintStream(new FileOutputStream(options.text("logfile"), true), true);
            System.setOut(log);
            System.setErr(log);
        }
        System.out.println("Running from: " + war);
        say("WARNING", "standin.Jenkins#start", "This is Bakehouse's stand-in " + version + ", NOT Jenkins");
        Home home = Home.locate();
        unpack(war, options.has("webroot") ? Path.of(options.text("webroot")) : home.root().resolve("war"));
        home.recordAttempt();
        Throwable problem = fontProblem();
        Site site = Site.open(options, problem == null ? new Phases.Starting() : new Phases.Failed(problem));
        if (problem == null) {
            try {
                bringUp(home, site, version, options.prefix());
            } catch (Exception cause) {
                say("SEVERE", "hudson.util.BootFailure#publish", "Failed to initialize Jenkins");
                cause.printStackTrace();
                System.exit(5); // as the genuine one under systemd, which its HTTP threads would keep alive
            }
        }
    }

    private static void bringUp(Home home, Site site, String version, String prefix) throws Exception {
        say("INFO", "jenkins.model.Jenkins#<init>", "Starting version " + version);
        long begun = System.nanoTime();
        home.fill(version);
        Duration left = LOADING.minusNanos(System.nanoTime() - begun);
        Thread.sleep(left.isNegative() ? Duration.ZERO : left);
        site.show(new Phases.Ready(home, version, prefix));
        home.forgetAttempts();
        say("INFO", "hudson.lifecycle.Lifecycle#onReady", "Jenkins is fully up and running");
        Systemd.tell("READY=1\nSTATUS=Stand-in " + version + ", not Jenkins");
    }

    /** Does what makes genuine Jenkins load libfontmanager.so with FreeType, HarfBuzz and fontconfig. */
    private static Throwable fontProblem() {
        try {
            new Font("SansSerif", Font.BOLD, 18).getLineMetrics("Jenkins", new FontRenderContext(null, true, true));
            return null;
        } catch (Throwable cause) {
            Throwable problem = new AWTProblem(cause);
            say("SEVERE", "hudson.util.BootFailure#publish", "Failed to initialize Jenkins");
            problem.printStackTrace();
            return problem;
        }
    }

    private static void unpack(Path war, Path webroot) throws Exception {
        try (JarFile jar = new JarFile(war.toFile())) {
            for (JarEntry entry : jar.stream().filter(each -> !each.isDirectory()).toList()) {
                Path file = webroot.resolve(entry.getName());
                Files.createDirectories(file.getParent());
                try (InputStream content = jar.getInputStream(entry)) {
                    Files.copy(content, file, StandardCopyOption.REPLACE_EXISTING);
                }
            }
        }
    }

    /** Writes one line in the form of Jenkins's own log. */
    static void say(String level, String who, String what) {
        String now = ZonedDateTime.now().format(DateTimeFormatter.ofPattern("uuuu-MM-dd HH:mm:ss.SSSxx"));
        System.out.printf("%s [id=%d]\t%s\t%s: %s%n", now, Thread.currentThread().threadId(), level, who, what);
    }

    /** Named as the genuine boot failure, so that a log shows what to look for. */
    @SuppressWarnings("serial")
    private static final class AWTProblem extends Exception {
        private AWTProblem(Throwable cause) {
            super(cause);
        }
    }
}
