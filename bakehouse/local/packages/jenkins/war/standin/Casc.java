package standin;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Configuration as Code, as far as it decides who gets in: the password of a local user, from a file.
 *
 * <p>As with the genuine one it takes the plugin and the variable; a file that can't be read stops the boot.
 */
final class Casc {
    private static final Pattern PASSWORD = Pattern.compile(
            "securityRealm:\\s*\n\\s+local:.*?password:\\s*[\"']?\\$\\{(?:trim:\\$\\{)?readFile:([^}]+)}", Pattern.DOTALL);

    private Casc() {}

    /** Returns the administrator's password, or null where nothing sets one. */
    static String password(Path home) throws IOException {
        String place = System.getenv("CASC_JENKINS_CONFIG");
        if (place == null || Files.notExists(home.resolve("plugins/configuration-as-code.jpi"))) {
            return null;
        }
        Matcher found = PASSWORD.matcher(Files.readString(Path.of(place)));
        return found.find() ? Files.readString(Path.of(found.group(1))).strip() : null;
    }
}
