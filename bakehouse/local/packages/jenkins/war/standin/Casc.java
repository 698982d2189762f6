package standin;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.OptionalInt;
import java.util.jar.JarFile;
import java.util.jar.Manifest;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.ZipException;

/**
 * Configuration as Code, as far as it decides who gets in: a realm, local users with their passwords from files, and
 * the port for inbound agents.
 *
 * <p>As with the genuine one it takes the plugin and the variable; a file that can't be read stops the boot, a secret
 * that can't be found is a warning and an empty text.
 */
record Casc(String text, boolean trims) {
    /** The plugin's first version with {@code trim}. */
    private static final int TRIMS = 2061;

    private static final Pattern REALM = Pattern.compile("^ +securityRealm:", Pattern.MULTILINE);
    private static final Pattern AGENTS = Pattern.compile("^ +slaveAgentPort: *(-?\\d+)", Pattern.MULTILINE);
    private static final Pattern USER = Pattern.compile(
            "^ *- +id: *[\"']?([\\w.-]+)[\"']? *\n(?: +(?!- )\\w+:.*\n)*? +password: *[\"']?(\\$\\{.+})[\"']? *$",
            Pattern.MULTILINE);
    private static final Pattern FILE = Pattern.compile("\\$\\{readFile:([^{}]+)}");

    static Casc read(Path home) throws IOException {
        String place = System.getenv("CASC_JENKINS_CONFIG");
        Path plugin = home.resolve("plugins/configuration-as-code.jpi");
        boolean read = place != null && Files.exists(plugin);
        return new Casc(read ? Files.readString(Path.of(place)) : "", !read || version(plugin) >= TRIMS);
    }

    /** Returns the first number of a plugin's version; a file that only stands in for the plugin tells none. */
    private static int version(Path plugin) throws IOException {
        try (JarFile jar = new JarFile(plugin.toFile())) {
            Manifest manifest = jar.getManifest();
            String told = manifest == null ? null : manifest.getMainAttributes().getValue("Plugin-Version");
            return told == null ? TRIMS : Integer.parseInt(told.split("\\D", 2)[0]);
        } catch (ZipException standIn) {
            return TRIMS;
        }
    }

    /** Tells whether it sets a realm, without which everybody is administrator. */
    boolean closes() {
        return REALM.matcher(text).find();
    }

    OptionalInt agentPort() {
        Matcher found = AGENTS.matcher(text);
        return found.find() ? OptionalInt.of(Integer.parseInt(found.group(1))) : OptionalInt.empty();
    }

    /** Returns the local users and their passwords, in the file's order. */
    Map<String, String> users() {
        Map<String, String> users = new LinkedHashMap<>();
        for (Matcher found = USER.matcher(text); found.find();) {
            users.put(found.group(1), resolved(found.group(2)));
        }
        return users;
    }

    /** Returns what the plugin makes of the words: with the line's end, unless they trim it and the plugin can. */
    private String resolved(String words) {
        Matcher file = FILE.matcher(words);
        if (!file.find()) {
            return unresolved(words.substring(2, words.length() - 1));
        }
        String content;
        try {
            content = Files.readString(Path.of(file.group(1)));
        } catch (IOException missing) {
            warn("FileStringLookup", "Error looking up file '%s' with UTF-8 encoding. Will default to empty string"
                    .formatted(file.group(1)));
            return unresolved("readFile:" + file.group(1));
        }
        if (!words.startsWith("${trim:")) {
            return content;
        }
        return trims ? content.stripTrailing() : unresolved("trim:" + content);
    }

    private static String unresolved(String variable) {
        warn("UnresolvedLookup", "Found unresolved variable '%s'. Will default to empty string".formatted(variable));
        return "";
    }

    private static void warn(String who, String what) {
        Jenkins.say("WARNING", "i.j.p.casc.SecretSourceResolver$" + who + "#lookup", "Configuration import: " + what);
    }
}
