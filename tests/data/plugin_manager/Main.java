import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;

/** Stands in for the plugin manager in tests: it takes the role's arguments alone, and plugins from a folder. */
public final class Main {
    public static void main(String[] given) throws Exception {
        List<String> arguments = List.of(given);
        String folder = arguments.get(3);
        String list = arguments.get(5);
        String centre = arguments.get(9);
        List<String> wanted = List.of("--war", "/usr/share/java/jenkins.war", "--plugin-download-directory", folder,
                "--plugin-file", list, "--latest", "false", "--jenkins-update-center-download-url", centre);
        if (!arguments.equals(wanted) || !System.getProperty("user.name").equals("jenkins")
                || !Files.isSameFile(Path.of(System.getenv("CACHE_DIR")), Path.of(""))) {
            throw new IllegalArgumentException(arguments + " as " + System.getProperty("user.name"));
        }
        Files.writeString(Path.of(System.getenv("CACHE_DIR"), "cached"), "");
        for (String line : Files.readAllLines(Path.of(list))) {
            String[] parts = line.replaceFirst("#.*", "").trim().split(":");
            Path source = Path.of(centre.replaceFirst("^file:", ""), parts[0] + ".hpi");
            if (!parts[0].isEmpty() && Files.notExists(source)) {
                System.err.println("Unable to find plugin " + parts[0]);
                System.exit(1);
            } else if (!parts[0].isEmpty()) {
                Files.copy(source, Path.of(folder, parts[0] + ".jpi"), StandardCopyOption.REPLACE_EXISTING);
            }
        }
    }
}
