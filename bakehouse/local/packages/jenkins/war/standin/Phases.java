package standin;

import com.sun.net.httpserver.HttpExchange;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import standin.Site.Answer;

/** What is answered while Jenkins starts and when it could not start; {@link Ready} is the third. */
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

    static Answer page(int status, String title, String content, Map<String, String> headers)
            throws IOException {
        try (InputStream frame = Phases.class.getResourceAsStream("page.html")) {
            String body = new String(frame.readAllBytes(), StandardCharsets.UTF_8)
                    .replace("@TITLE@", title).replace("@CONTENT@", content);
            return new Answer(status, "text/html", body, headers);
        }
    }

    static String escaped(String text) {
        return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;");
    }
}
