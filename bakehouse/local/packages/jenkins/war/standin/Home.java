package standin;

import java.io.IOException;
import java.io.Reader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.PosixFilePermissions;
import java.security.GeneralSecurityException;
import java.security.KeyPairGenerator;
import java.security.MessageDigest;
import java.security.SecureRandom;
import java.time.ZonedDateTime;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import java.util.regex.Pattern;
import javax.crypto.Cipher;
import javax.crypto.SecretKeyFactory;
import javax.crypto.spec.PBEKeySpec;
import javax.crypto.spec.SecretKeySpec;

/**
 * JENKINS_HOME, with what the first start of a genuine Jenkins leaves there: the same names, sizes and modes.
 *
 * <p>What is there already is kept, so a restart changes nothing, and a home that was baked into an image would give
 * the same secrets to each of its machines, as it would with the genuine one.
 */
record Home(Path root) {
    private static final SecureRandom RANDOM = new SecureRandom();
    private static final HexFormat HEX = HexFormat.of();
    private static final String WIZARD_STATE = "jenkins.install.UpgradeWizard.state";
    private static final String HASH = "<passwordHash>";
    private static final String HASH_END = "</passwordHash>";
    private static final String AGENTS = "<slaveAgentPort>";

    static Home locate() throws IOException {
        String place = System.getProperty("JENKINS_HOME", System.getenv("JENKINS_HOME"));
        Path root = place == null ? Path.of(System.getProperty("user.home"), ".jenkins") : Path.of(place.trim());
        Jenkins.say("INFO", "hudson.WebAppMain#contextInitialized", "Jenkins home directory: " + root);
        return new Home(Files.createDirectories(root.toAbsolutePath()));
    }

    void recordAttempt() throws IOException {
        Files.writeString(root.resolve("failed-boot-attempts.txt"), ZonedDateTime.now() + "\n",
                StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }

    void forgetAttempts() throws IOException {
        Files.deleteIfExists(root.resolve("failed-boot-attempts.txt"));
    }

    /** Makes what is missing, and the administrator unless the setup wizard is off or done. */
    void fill(String version) throws IOException, GeneralSecurityException {
        if (make("secret.key", hex(32))) {
            make("secret.key.not-so-secret", "");
        }
        if (Files.notExists(secrets())) {
            Files.createDirectory(secrets());
            mode(secrets(), "rwx------");
        }
        make("secrets/master.key", hex(128));
        make("secrets/jenkins.model.Jenkins.crumbSalt", sealed(bytes(32)));
        makeIdentity();
        for (String folder : List.of("jobs", "logs", "nodes", "plugins", "updates", "userContent", "users")) {
            Files.createDirectories(root.resolve(folder));
        }
        make("jenkins.telemetry.Correlator.xml", xml("jenkins.telemetry.Correlator",
                "<correlationId>" + UUID.randomUUID() + "</correlationId>"));
        make("nodeMonitors.xml", xml("hudson.util.DescribableList", ""));
        make("hudson.model.UpdateCenter.xml", xml("sites", ""));
        if (waitsForSetup() || !wizard()) {
            introduce(version);
        }
        make(".lastStarted", "");
    }

    /** Makes who may get in. The configuration is the last: a start that was cut off before begins anew. */
    private void introduce(String version) throws IOException, GeneralSecurityException {
        if (!wizard()) {
            Casc casc = Casc.read(root);
            for (var user : casc.users().entrySet()) {
                if (!admits(user.getKey(), user.getValue())) {
                    makeUser(user.getKey(), user.getValue());
                }
            }
            int port = casc.agentPort().orElse(Integer.getInteger("jenkins.model.Jenkins.slaveAgentPort", 0));
            if (casc.closes()) {
                configure(closed(port));
            } else if (Files.notExists(configuration())) {
                configure(configuration(
                        "hudson.security.AuthorizationStrategy$Unsecured", "hudson.security.SecurityRealm$None", port));
            }
            finish(version);
            return;
        }
        if (Files.notExists(configuration())) {
            String password = HEX.formatHex(bytes(16));
            makeUser("admin", password);
            Files.writeString(passwordFile(), "");
            mode(passwordFile(), "rw-r-----");
            Files.writeString(passwordFile(), password + "\n");
            configure(closed(Integer.getInteger("jenkins.model.Jenkins.slaveAgentPort", -1)));
        }
        if (Files.exists(passwordFile())) {
            announce();
        }
    }

    private static boolean wizard() {
        return !"false".equalsIgnoreCase(System.getProperty("jenkins.install.runSetupWizard"));
    }

    /** Tells whether the setup wizard waits for somebody. */
    boolean waitsForSetup() {
        return wizard() && Files.notExists(root.resolve(WIZARD_STATE));
    }

    /** Does what the wizard does when somebody has made an administrator: the first one and the password go. */
    void makeAdministrator(String user, String password) throws IOException, GeneralSecurityException {
        deleteUser("admin");
        makeUser(user, password);
        Files.deleteIfExists(passwordFile());
    }

    /** Does what the wizard does at its end. */
    void finish(String version) throws IOException {
        make(WIZARD_STATE, version);
        make("jenkins.install.InstallUtil.lastExecVersion", version);
    }

    /** Returns the port for inbound agents, which the configuration keeps: 0 for any, -1 for none. */
    int agentPort() throws IOException {
        return Integer.parseInt(Files.readString(configuration()).split(AGENTS)[1].split("<")[0]);
    }

    private void makeUser(String user, String password) throws IOException, GeneralSecurityException {
        deleteUser(user);
        String name = user + "_" + Math.abs(RANDOM.nextLong());
        Files.createDirectory(root.resolve("users").resolve(name));
        make("users/" + name + "/config.xml", xml("user", "<id>" + user + "</id><fullName>" + user + "</fullName>"
                + HASH + hash(password, hex(16)) + HASH_END));
        recordUsers();
    }

    private void deleteUser(String user) throws IOException {
        for (Path folder : folders(user)) {
            Files.deleteIfExists(folder.resolve("config.xml"));
            Files.delete(folder);
        }
        recordUsers();
    }

    private List<Path> folders(String user) throws IOException {
        try (var found = Files.list(root.resolve("users"))) {
            return found.filter(Files::isDirectory)
                    .filter(each -> each.getFileName().toString().matches(Pattern.quote(user) + "_\\d+")).toList();
        }
    }

    private void recordUsers() throws IOException {
        StringBuilder entries = new StringBuilder();
        try (var found = Files.list(root.resolve("users"))) {
            for (Path folder : found.filter(Files::isDirectory).sorted().toList()) {
                String name = folder.getFileName().toString();
                entries.append("<entry><string>%s</string><string>%s</string></entry>"
                        .formatted(name.substring(0, name.lastIndexOf('_')), name));
            }
        }
        Files.writeString(root.resolve("users/users.xml"),
                xml("hudson.model.UserIdMapper", "<idToDirectoryNameMap>" + entries + "</idToDirectoryNameMap>"));
    }

    private void announce() throws IOException {
        String stars = ("*".repeat(61) + "\n").repeat(3);
        Jenkins.say("INFO", "jenkins.install.SetupWizard#init", "\n\n" + stars + "\n"
                + "Jenkins initial setup is required. An admin user has been created and a password generated.\n"
                + "Please use the following password to proceed to installation:\n\n"
                + Files.readString(passwordFile()) + "\n"
                + "This may also be found at: " + passwordFile() + "\n\n" + stars);
    }

    private void makeIdentity() throws IOException, GeneralSecurityException {
        if (Files.exists(root.resolve("identity.key.enc"))) {
            return;
        }
        make("secrets/org.jenkinsci.main.modules.instance_identity.InstanceIdentity.KEY", sealed(bytes(16)));
        KeyPairGenerator generator = KeyPairGenerator.getInstance("RSA");
        generator.initialize(2048);
        make("identity.key.enc", sealed(generator.generateKeyPair().getPrivate().getEncoded()));
    }

    /** Tells whether anybody may do anything: no realm, as when the wizard is off and nothing else sets one. */
    boolean open() throws IOException {
        return Files.readString(configuration()).contains("hudson.security.SecurityRealm$None");
    }

    /** Tells whether these are a user's name and password; an empty one lets nobody in. */
    boolean admits(String user, String password) throws IOException, GeneralSecurityException {
        for (Path folder : folders(user)) {
            if (Files.notExists(folder.resolve("config.xml"))) {
                return false; // a start was cut off right here
            }
            String kept = Files.readString(folder.resolve("config.xml")).split(HASH)[1].split(HASH_END)[0];
            String tried = hash(password, kept.split(":")[0]);
            return !password.isEmpty() && MessageDigest.isEqual(kept.getBytes(), tried.getBytes());
        }
        return false;
    }

    /** Returns the statuses, by path, that a test wants instead of the right ones. No genuine Jenkins has this file. */
    Properties spoilt() throws IOException {
        Properties statuses = new Properties();
        Path file = root.resolve("spoilt.properties");
        if (Files.exists(file)) {
            try (Reader text = Files.newBufferedReader(file)) {
                statuses.load(text);
            }
        }
        return statuses;
    }

    Path passwordFile() {
        return secrets().resolve("initialAdminPassword");
    }

    private Path configuration() {
        return root.resolve("config.xml");
    }

    private void configure(String content) throws IOException {
        Path part = Files.writeString(root.resolve("config.xml.part"), content);
        Files.move(part, configuration(), StandardCopyOption.ATOMIC_MOVE);
    }

    private Path secrets() {
        return root.resolve("secrets");
    }

    private boolean make(String name, String content) throws IOException {
        return make(name, content.getBytes(StandardCharsets.UTF_8));
    }

    private boolean make(String name, byte[] content) throws IOException {
        Path file = root.resolve(name);
        if (Files.exists(file)) {
            return false;
        }
        Files.write(file, content);
        return true;
    }

    private static void mode(Path file, String mode) throws IOException {
        Files.setPosixFilePermissions(file, PosixFilePermissions.fromString(mode));
    }

    private byte[] sealed(byte[] content) throws IOException, GeneralSecurityException {
        byte[] master = Files.readAllBytes(root.resolve("secrets/master.key"));
        byte[] key = Arrays.copyOf(MessageDigest.getInstance("SHA-256").digest(master), 16);
        Cipher cipher = Cipher.getInstance("AES");
        cipher.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(key, "AES"));
        return cipher.doFinal(content);
    }

    private static String hash(String password, String salt) throws GeneralSecurityException {
        PBEKeySpec spec = new PBEKeySpec(password.toCharArray(), salt.getBytes(), 50_000, 256);
        return salt + ":" + HEX.formatHex(
                SecretKeyFactory.getInstance("PBKDF2WithHmacSHA256").generateSecret(spec).getEncoded());
    }

    private static String closed(int agentPort) {
        return configuration("hudson.security.FullControlOnceLoggedInAuthorizationStrategy",
                "hudson.security.HudsonPrivateSecurityRealm", agentPort);
    }

    private static String configuration(String authorization, String realm, int agentPort) {
        return xml("hudson", "<authorizationStrategy class=\"" + authorization + "\"/>"
                + "<securityRealm class=\"" + realm + "\"/>" + AGENTS + agentPort + "</slaveAgentPort>");
    }

    private static String xml(String element, String content) {
        return "<?xml version='1.1' encoding='UTF-8'?>\n<" + element + ">" + content + "</" + element + ">\n";
    }

    private static byte[] bytes(int count) {
        byte[] some = new byte[count];
        RANDOM.nextBytes(some);
        return some;
    }

    private static String hex(int count) {
        return HEX.formatHex(bytes(count));
    }
}
