package standin;

import java.awt.Font;
import java.awt.font.FontRenderContext;
import java.io.FileOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.time.Duration;
import java.time.Instant;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.Collections;
import java.util.List;
import java.util.jar.JarEntry;
import java.util.jar.JarFile;

/**
 * Bakehouse's stand-in for Jenkins: it boots and lets people in like Jenkins, and its jobs are shell scripts.
 *
 * <p>In the order of the genuine one: unpack the war, load the fonts, listen, make the home, ask the update centre, say
 * that it is ready. docs/stand-in.md has what it plays, and how it is known.
 */
final class Jenkins {
    /** After how many seconds it is up: the genuine one takes as long as it has work to do, 2 to 17 at least. */
    private static final int BOOT_SECONDS = Integer.getInteger("standin.bootSeconds", 2);

    /** How long "Starting Jenkins" is shown at least, on a slow host too: long enough to be met. */
    private static final Duration LOADING = Duration.ofMillis(1500);

    /** Kept, for a socket that nobody refers to any more is closed some time. */
    private static ServerSocket agentListener;

    private Jenkins() {}

    /** Boots, and leaves the HTTP server's threads running. */
    static void start(List<String> arguments) throws Exception {
        Options options = Options.parse(arguments);
        if (options.has("help") || options.has("usage")) {
            System.out.println(Options.HELP);
            return;
        }
        if (BOOT_SECONDS < 2 || BOOT_SECONDS > 17) {
            throw new IllegalArgumentException("standin.bootSeconds takes 2 to 17, not " + BOOT_SECONDS);
        }
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
        Instant listening = Instant.now();
        say("INFO", "jenkins.model.Jenkins#<init>", "Starting version " + version);
        home.fill(version);
        Thread news = new Thread(UpdateCenter::check);
        news.start();
        if (home.waitsForSetup()) {
            news.join(); // the wizard offers plugins, so it waits for news of them
        }
        int agents = home.agentPort();
        if (agents >= 0) {
            agentListener = new ServerSocket(agents);
            say("INFO", "hudson.TcpSlaveAgentListener#<init>", "TCP agent listener started on port "
                    + agentListener.getLocalPort());
        }
        Instant begun = ProcessHandle.current().info().startInstant().orElse(listening);
        Duration left = Duration.between(Instant.now(), Collections.max(
                List.of(begun.plusSeconds(BOOT_SECONDS), listening.plus(LOADING))));
        Thread.sleep(left.isNegative() ? Duration.ZERO : left);
        site.show(new Ready(home, version, prefix));
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
