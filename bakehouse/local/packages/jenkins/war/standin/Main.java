package standin;

import java.util.List;
import java.util.TreeSet;

/**
 * Looks at the Java it was given, then hands over to {@link Jenkins}.
 *
 * <p>Compiled for Java 11, so that a Java which is too old is told so in words, as the genuine war does.
 */
public final class Main {
    private static final TreeSet<Integer> SUPPORTED = new TreeSet<>(List.of(21, 25));
    private static final String FUTURE = "--enable-future-java";

    public static void main(String[] arguments) throws Exception {
        List<String> given = List.of(arguments);
        int java = Runtime.version().feature();
        boolean future = given.contains(FUTURE) || Boolean.parseBoolean(System.getenv("JENKINS_ENABLE_FUTURE_JAVA"));
        String objection = objection(java, future);
        if (objection != null) {
            System.err.printf("Running with Java %d from %s, %s%n", java, System.getProperty("java.home"), objection);
            System.err.println("Supported Java versions are: " + SUPPORTED);
            System.exit(1);
        }
        Jenkins.start(given);
    }

    private static String objection(int java, boolean future) {
        if (java < SUPPORTED.first()) {
            return "which is older than the minimum required version (Java " + SUPPORTED.first() + ").";
        }
        if (SUPPORTED.contains(java) || future) {
            return null;
        }
        return "which is not fully supported. The flag " + FUTURE + " lets it run all the same.";
    }
}
