package standin;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Jobs, of which a build is one shell script, run by this very process; the files are where genuine jobs have them. */
final class Jobs {
    private static final Pattern COMMAND = Pattern.compile("<command>(.*?)</command>", Pattern.DOTALL);
    private static final Pattern RESULT = Pattern.compile("<result>(.*?)</result>");

    private final Path home;

    Jobs(Path home) {
        this.home = home;
    }

    List<String> names() throws IOException {
        try (var found = Files.list(home.resolve("jobs"))) {
            return found.map(each -> each.getFileName().toString()).sorted().toList();
        }
    }

    boolean has(String name) throws IOException {
        return names().contains(name);
    }

    void create(String name, String configuration) throws IOException {
        Files.createDirectories(folder(name).resolve("builds"));
        Files.writeString(folder(name).resolve("config.xml"), configuration);
    }

    /** Begins a build and returns its number. */
    synchronized int build(String name) throws IOException {
        int number = lastBuild(name) + 1;
        Path build = Files.createDirectories(folder(name).resolve("builds").resolve(String.valueOf(number)));
        Path workspace = Files.createDirectories(home.resolve("workspace").resolve(name));
        ProcessBuilder shell = new ProcessBuilder("/bin/sh", "-xe", "-c", command(name))
                .directory(workspace.toFile()).redirectErrorStream(true).redirectOutput(build.resolve("log").toFile());
        shell.environment().putAll(Map.of("JOB_NAME", name, "BUILD_NUMBER", String.valueOf(number),
                "WORKSPACE", workspace.toString(), "JENKINS_HOME", home.toString()));
        Process process = shell.start();
        process.onExit().thenAccept(ended -> record(build, ended.exitValue() == 0 ? "SUCCESS" : "FAILURE"));
        return number;
    }

    /** Returns a job's last build, 0 before the first. */
    int lastBuild(String name) throws IOException {
        try (var found = Files.list(folder(name).resolve("builds"))) {
            return found.mapToInt(each -> Integer.parseInt(each.getFileName().toString())).max().orElse(0);
        }
    }

    /** Returns a build's result, empty while it runs. */
    String result(String name, int number) throws IOException {
        try {
            Matcher found = RESULT.matcher(Files.readString(folder(name).resolve("builds/" + number + "/build.xml")));
            return found.find() ? found.group(1) : "";
        } catch (NoSuchFileException running) {
            return "";
        }
    }

    String log(String name, int number) throws IOException {
        return Files.readString(folder(name).resolve("builds/" + number + "/log"));
    }

    private static void record(Path build, String result) {
        try {
            String content = "<build><result>" + result + "</result></build>\n";
            Path part = Files.writeString(build.resolve("build.xml.part"), content);
            Files.move(part, build.resolve("build.xml"));
        } catch (IOException problem) {
            problem.printStackTrace();
        }
    }

    private String command(String name) throws IOException {
        Matcher found = COMMAND.matcher(Files.readString(folder(name).resolve("config.xml")));
        String text = found.find() ? found.group(1) : ":";
        return text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    }

    private Path folder(String name) {
        return home.resolve("jobs").resolve(name);
    }
}
