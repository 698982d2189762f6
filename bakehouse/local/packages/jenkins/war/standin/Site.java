package standin;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.sun.net.httpserver.HttpsConfigurator;
import com.sun.net.httpserver.HttpsServer;
import java.io.FileInputStream;
import java.io.FileWriter;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Executors;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;

/** The HTTP side: every request gets the answer of the phase that Jenkins is in. */
final class Site {
    /** A stretch of Jenkins's life; {@code path} comes without the prefix, and begins with a slash. */
    interface Phase {
        Answer answer(HttpExchange exchange, String path) throws Exception;
    }

    /** What goes back: a status, a body of that type, more headers. */
    record Answer(int status, String type, String body, Map<String, String> headers) {}

    private final String prefix;
    private final String accessLog;
    private volatile Phase phase;

    private Site(Options options, Phase first) {
        prefix = options.prefix();
        accessLog = options.text("simpleAccessLogger.file");
        phase = first;
    }

    /** Listens for HTTP and HTTPS where the options say so. */
    static Site open(Options options, Phase first) throws Exception {
        Site site = new Site(options, first);
        int http = options.port("httpPort", 8080);
        if (http >= 0) {
            site.serve(HttpServer.create(address(options.text("httpListenAddress"), http), 0));
        }
        int https = options.port("httpsPort", -1);
        if (https >= 0) {
            HttpsServer secure = HttpsServer.create(address(options.text("httpsListenAddress"), https), 0);
            secure.setHttpsConfigurator(new HttpsConfigurator(tls(options)));
            site.serve(secure);
        }
        return site;
    }

    void show(Phase next) {
        phase = next;
    }

    private void serve(HttpServer server) {
        server.createContext("/", this::handle);
        server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
        server.start();
    }

    private void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            Answer answer = answer(exchange);
            byte[] body = answer.body().getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("Content-Type", answer.type() + ";charset=utf-8");
            exchange.getResponseHeaders().set("X-Content-Type-Options", "nosniff");
            answer.headers().forEach(exchange.getResponseHeaders()::set);
            boolean head = exchange.getRequestMethod().equals("HEAD");
            exchange.sendResponseHeaders(answer.status(), head || body.length == 0 ? -1 : body.length);
            if (!head && body.length > 0) {
                exchange.getResponseBody().write(body);
            }
            log(exchange, answer.status(), body.length);
        }
    }

    private Answer answer(HttpExchange exchange) {
        String path = exchange.getRequestURI().getPath();
        if (!path.startsWith(prefix + "/")) {
            return path.equals(prefix)
                    ? new Answer(302, "text/plain", "", Map.of("Location", prefix + "/"))
                    : new Answer(404, "text/plain", "Not Found\n", Map.of());
        }
        try {
            return phase.answer(exchange, path.substring(prefix.length()));
        } catch (Exception problem) {
            problem.printStackTrace();
            return new Answer(500, "text/plain", problem + "\n", Map.of());
        }
    }

    private synchronized void log(HttpExchange exchange, int status, int length) throws IOException {
        if (accessLog.isEmpty()) {
            return;
        }
        var form = DateTimeFormatter.ofPattern("dd/MMM/uuuu:HH:mm:ss xx", Locale.ENGLISH);
        try (FileWriter file = new FileWriter(accessLog, true)) {
            file.write("%s - - [%s] \"%s %s %s\" %d %d%n".formatted(
                    exchange.getRemoteAddress().getAddress().getHostAddress(), ZonedDateTime.now().format(form),
                    exchange.getRequestMethod(), exchange.getRequestURI(), exchange.getProtocol(), status, length));
        }
    }

    private static InetSocketAddress address(String host, int port) {
        return host.isEmpty() ? new InetSocketAddress(port) : new InetSocketAddress(host, port);
    }

    private static SSLContext tls(Options options) throws Exception {
        char[] password = options.text("httpsKeyStorePassword").toCharArray();
        KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
        try (InputStream file = new FileInputStream(options.text("httpsKeyStore"))) {
            store.load(file, password);
        }
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(store, password);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), null, null);
        return context;
    }
}
