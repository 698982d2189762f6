package standin;

import java.io.IOException;
import java.net.HttpURLConnection;
import java.net.URI;

/** Asks at each start whether there is an update centre, with the genuine one's patience; there is no news in it. */
final class UpdateCenter {
    private static final String URL =
            System.getProperty("hudson.model.UpdateCenter.updateCenterUrl", "https://updates.jenkins.io/");
    private static final int MILLISECONDS =
            Integer.getInteger("hudson.ProxyConfiguration.DEFAULT_CONNECT_TIMEOUT_MILLIS", 20_000);

    private UpdateCenter() {}

    static void check() {
        try {
            HttpURLConnection connection =
                    (HttpURLConnection) URI.create(URL + "update-center.actual.json").toURL().openConnection();
            connection.setRequestMethod("HEAD");
            connection.setConnectTimeout(MILLISECONDS);
            connection.setReadTimeout(MILLISECONDS);
            connection.getResponseCode();
            connection.disconnect();
        } catch (IOException problem) {
            Jenkins.say("SEVERE", "hudson.PluginManager#doCheckUpdatesServer",
                    "Error checking update sites for 1 attempt(s). Last exception was: "
                    + problem.getClass().getSimpleName() + ": " + problem.getMessage());
        }
    }
}
