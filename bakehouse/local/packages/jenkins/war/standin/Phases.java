package standin;

import com.sun.net.httpserver.HttpExchange;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.UUID;
import standin.Site.Answer;

/** What is answered while Jenkins starts, when it could not start, and when it is ready. */
final class Phases {
    private Phases() {}

    /** Everything is 503 and nothing carries X-Jenkins: a probe can tell this from being ready. */
    record Starting() implements Site.Phase {
        @Override
        public Answer answer(HttpExchange exchange, String path) throws IOException {
            return page(503, "Starting Jenkins",
                    "<p>Please wait while Jenkins is getting ready to work</p>", Map.of());
        }
    }

    /** For ever 503, with the reason. */
    record Failed(Throwable problem) implements Site.Phase {
        @Override
        public Answer answer(HttpExchange exchange, String path) throws IOException {
            StringWriter trace = new StringWriter();
            problem.printStackTrace(new PrintWriter(trace));
            return page(503, "Error", "<p>AWT is not properly configured on this server.</p><pre>"
                    + escaped(trace.toString()) + "</pre>", Map.of());
        }
    }

    /** Ready: a few pages for everybody, the rest for the administrator, unless Jenkins is open. */
    static final class Ready implements Site.Phase {
        private final Home home;
        private final String prefix;
        private final boolean open;
        private final Map<String, String> headers;

        Ready(Home home, String version, String prefix) throws IOException {
            this.home = home;
            this.prefix = prefix;
            this.open = home.open();
            this.headers = Map.of("X-Jenkins", version, "X-Hudson", "1.395",
                    "X-Jenkins-Session", UUID.randomUUID().toString().substring(0, 8));
        }

        @Override
        public Answer answer(HttpExchange exchange, String path) throws Exception {
            String authorization = exchange.getRequestHeaders().getFirst("Authorization");
            boolean admitted = authorization != null && admits(authorization);
            if (authorization != null && !admitted && !open) {
                return page(401, "Unauthorized", "<p>Wrong user or password.</p>", headers);
            }
            String spoilt = home.spoilt().getProperty(path);
            if (spoilt != null) {
                return page(Integer.parseInt(spoilt), "Spoilt", "<p>A test wants to see this fail.</p>", Map.of());
            }
            return switch (path) {
                case "/login" -> page(200, "Sign in - Jenkins", unlock(), headers);
                case "/j_spring_security_check" -> signIn(exchange);
                case "/health" -> json("{\"status\":true}");
                case "/whoAmI/api/json" -> json("{\"_class\":\"hudson.security.WhoAmI\",\"anonymous\":%s,\"name\":\"%s\"}"
                        .formatted(!admitted, admitted ? "admin" : "anonymous"));
                default -> open || admitted ? inside(path) : forbidden(exchange);
            };
        }

        private Answer inside(String path) throws IOException {
            return switch (path) {
                case "/" -> page(200, "Dashboard - Jenkins", "<p>You are in. There is nothing here.</p>", headers);
                case "/api/json" -> json(("{\"_class\":\"hudson.model.Hudson\",\"mode\":\"NORMAL\",\"jobs\":[],"
                        + "\"nodeDescription\":\"a stand-in, not Jenkins\",\"useSecurity\":%s}").formatted(!open));
                default -> page(404, "Not Found", "<p>There is nothing here.</p>", headers);
            };
        }

        private Answer forbidden(HttpExchange exchange) throws IOException {
            String from = URLEncoder.encode(exchange.getRequestURI().toString(), StandardCharsets.UTF_8);
            String login = prefix + "/login?from=" + from;
            return page(403, "Authentication required", "<meta http-equiv=\"refresh\" content=\"1;url=" + login
                    + "\"><p>Authentication required</p>", headers);
        }

        private String unlock() {
            return open ? "<p>Nobody need sign in here: this instance is open to everybody.</p>" : """
                    <h2>Unlock</h2>
                    <p>The administrator's password is in the log and in <code>%s</code></p>
                    <form action="%s/j_spring_security_check" method="post">
                    <input type="hidden" name="j_username" value="admin">
                    <input type="password" name="j_password" aria-label="Administrator password" autofocus>
                    <button>Continue</button>
                    </form>""".formatted(escaped(home.passwordFile().toString()), prefix);
        }

        private Answer signIn(HttpExchange exchange) throws Exception {
            Map<String, String> form = new HashMap<>();
            try (InputStream body = exchange.getRequestBody()) {
                for (String field : new String(body.readNBytes(10_000), StandardCharsets.UTF_8).split("&")) {
                    String[] parts = field.split("=", 2);
                    form.put(parts[0], parts.length < 2 ? "" : URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
                }
            }
            boolean right = !open
                    && home.admits(form.getOrDefault("j_username", ""), form.getOrDefault("j_password", ""));
            return right
                    ? page(200, "Unlocked", "<p>The password is right. Here Jenkins's setup would begin.</p>", headers)
                    : page(401, "Sign in - Jenkins", "<p>The password is wrong.</p>" + unlock(), headers);
        }

        private boolean admits(String authorization) throws Exception {
            if (open || !authorization.startsWith("Basic ")) {
                return false;
            }
            byte[] decoded = Base64.getDecoder().decode(authorization.substring(6).trim());
            String[] parts = new String(decoded, StandardCharsets.UTF_8).split(":", 2);
            return parts.length == 2 && home.admits(parts[0], parts[1]);
        }

        private Answer json(String body) {
            return new Answer(200, "application/json", body, headers);
        }
    }

    private static Answer page(int status, String title, String content, Map<String, String> headers)
            throws IOException {
        try (InputStream frame = Phases.class.getResourceAsStream("page.html")) {
            String body = new String(frame.readAllBytes(), StandardCharsets.UTF_8)
                    .replace("@TITLE@", title).replace("@CONTENT@", content);
            return new Answer(status, "text/html", body, headers);
        }
    }

    private static String escaped(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;");
    }
}
