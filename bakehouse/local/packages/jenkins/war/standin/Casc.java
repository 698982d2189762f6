package standin;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Configuration as Code, as far as it decides who gets in: a realm, and the password of a local user, from a file.
 *
 * <p>As with the genuine one it takes the plugin and the variable; a file that can't be read stops the boot.
 */
record Casc(String text) {
    private static final Pattern REALM = Pattern.compile("^ +securityRealm:", Pattern.MULTILINE);
    private static final Pattern PASSWORD = Pattern.compile(
            "securityRealm:\\s*\n\\s+local:.*?password:\\s*[\"']?\\$\\{(?:trim:\\$\\{)?readFile:([^}]+)}", Pattern.DOTALL);

    static Casc read(Path home) throws IOException {
        String place = System.getenv("CASC_JENKINS_CONFIG");
        boolean read = place != null && Files.exists(home.resolve("plugins/configuration-as-code.jpi"));
        return new Casc(read ? Files.readString(Path.of(place)) : "");
    }

    /** Tells whether it sets a realm, without which everybody is administrator. */
    boolean closes() {
        return REALM.matcher(text).find();
    }

    /** Returns the administrator's password, or null where nothing sets one. */
    String password() throws IOException {
        Matcher found = PASSWORD.matcher(text);
        return found.find() ? Files.readString(Path.of(found.group(1))).strip() : null;
    }
}
