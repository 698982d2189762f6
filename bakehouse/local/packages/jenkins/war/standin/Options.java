package standin;

import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;

/** The command line, as /usr/bin/jenkins writes it: {@code --name=value} or {@code --name}. */
record Options(Map<String, String> values) {
    private static final Set<String> PLAYED = Set.of(
            "version", "enable-future-java", "help", "usage", "webroot", "logfile", "prefix", "config",
            "httpPort", "httpListenAddress",
            "httpsPort", "httpsListenAddress", "httpsKeyStore", "httpsKeyStorePassword",
            "accessLoggerClassName", "simpleAccessLogger.format", "simpleAccessLogger.file");

    /** What else the genuine one's help lists: it is taken, and changes nothing here. */
    private static final Set<String> TAKEN = Set.of(
            "pluginroot", "extractedFilesFolder", "paramsFromStdIn", "javaHome", "toolsJar", "commonLibFolder",
            "extraLibFolder", "logThrowingLineNo", "logThrowingThread", "debug", "daemon", "httpKeepAliveTimeout",
            "httpUnixDomainPath", "httpsKeepAliveTimeout", "httpsKeyManagerType", "httpsKeyStoreType",
            "httpsPrivateKeyPassword", "httpsRedirectHttp", "httpsVerifyClient", "httpsSniHostCheck",
            "httpsSniRequired", "httpsCertificateAlias", "http2Port", "http2ListenAddress", "excludeProtocols",
            "excludeCipherSuites", "controlPort", "useJasper", "useServlets", "useInvoker", "sessionTimeout",
            "sessionEviction", "mimeTypes", "maxParamCount", "useJmx", "qtpMaxThreadsCount", "handlerCountMax",
            "jettyAcceptorsCount", "jettySelectorsCount", "compression", "realmClassName", "fileRealm.configFile");

    /** What ends a name of which the rest is a user's. */
    private static final Set<String> OF_USERS = Set.of("argumentsRealm.passwd.", "argumentsRealm.roles.");

    static final String HELP = "Stand-in for Jenkins, not Jenkins. Options:\n   --" + String.join("\n   --", known());

    private static List<String> known() {
        Set<String> known = new HashSet<>(PLAYED);
        known.addAll(TAKEN);
        return known.stream().sorted().toList();
    }

    /** Refuses what the genuine one doesn't know, as it does. */
    static Options parse(List<String> arguments) throws IOException {
        Map<String, String> values = new HashMap<>();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            String name = parts[0].replaceFirst("^--", "");
            boolean taken = TAKEN.contains(name) || OF_USERS.stream().anyMatch(name::startsWith);
            if (!argument.startsWith("--") || !(taken || PLAYED.contains(name))) {
                throw new IllegalArgumentException("Unrecognized option: " + argument);
            }
            values.put(name, parts.length == 2 ? parts[1] : "true");
        }
        if (values.containsKey("config") && Files.isRegularFile(Path.of(values.get("config")))) {
            load(Path.of(values.get("config")), values);
        }
        return new Options(Map.copyOf(values));
    }

    /** As Winstone: a file of properties says what the command line doesn't, and so hides it from everybody. */
    private static void load(Path file, Map<String, String> values) throws IOException {
        Properties read = new Properties();
        try (Reader text = Files.newBufferedReader(file)) {
            read.load(text);
        }
        read.forEach((name, value) -> values.putIfAbsent(name.toString().trim(), value.toString().trim()));
    }

    boolean has(String name) {
        return values.containsKey(name);
    }

    String text(String name) {
        return values.getOrDefault(name, "");
    }

    /** Returns the port, or -1 where there shall be none. */
    int port(String name, int otherwise) {
        return has(name) ? Integer.parseInt(text(name)) : otherwise;
    }

    /** Returns the servlet context's path without a slash at its end: "" or "/jenkins". */
    String prefix() {
        return text("prefix").replaceFirst("/+$", "");
    }
}
