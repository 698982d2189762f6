package standin;

import static standin.Phases.escaped;
import static standin.Phases.page;

import com.sun.net.httpserver.HttpExchange;
import java.io.IOException;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import standin.Site.Answer;

/** What is answered when Jenkins is up: some pages to all, the rest to who has signed in, unless it is open. */
final class Ready implements Site.Phase {
    private static final String CRUMB = "Jenkins-Crumb";

    /** What is an action of its own to the genuine one, and is asked for with a slash at its end. */
    private static final Pattern ACTION = Pattern.compile("/(health|setupWizard|job/[^/]+(/\\d+|/lastBuild)?)");
    private static final Pattern JOB =
            Pattern.compile("/job/([^/]+)/(build|(?:(\\d+|lastBuild)/)?(api/json|consoleText))");
    private static final Pattern NAME = Pattern.compile("\\w[\\w. -]*");

    private final Home home;
    private final Jobs jobs;
    private final Sessions sessions;
    private final String version;
    private final String prefix;
    private final boolean open;
    private final Map<String, String> headers;

    Ready(Home home, String version, String prefix) throws IOException {
        this.home = home;
        this.jobs = new Jobs(home.root());
        this.sessions = new Sessions(prefix);
        this.version = version;
        this.prefix = prefix;
        this.open = home.open();
        this.headers = Map.of("X-Jenkins", version, "X-Hudson", "1.395",
                "X-Jenkins-Session", UUID.randomUUID().toString().substring(0, 8));
    }

    /** A request: its path, the fields of its form and its query, its session and who is in that. */
    private record Request(HttpExchange exchange, String path, String body, Map<String, String> fields,
            String session, String user) {
        boolean changes() {
            return exchange.getRequestMethod().equals("POST");
        }
    }

    @Override
    public Answer answer(HttpExchange exchange, String path) throws Exception {
        String session = sessions.of(exchange);
        String user = sessions.user(session);
        String authorization = exchange.getRequestHeaders().getFirst("Authorization");
        if (authorization != null && !open) {
            user = admitted(authorization);
            if (user.isEmpty()) {
                return page(401, "Unauthorized", "<p>Wrong user or password.</p>", headers);
            }
        }
        String spoilt = home.spoilt().getProperty(path.replaceFirst("(?<=.)/$", ""));
        if (spoilt != null) {
            return page(Integer.parseInt(spoilt), "Spoilt", "<p>A test wants to see this fail.</p>", Map.of());
        }
        String body = new String(exchange.getRequestBody().readNBytes(100_000), StandardCharsets.UTF_8);
        Map<String, String> fields = fields(exchange.getRequestURI().getRawQuery());
        if (String.valueOf(exchange.getRequestHeaders().getFirst("Content-Type")).contains("form-urlencoded")) {
            fields.putAll(fields(body));
        }
        return answer(new Request(exchange, path, body, fields, session, user));
    }

    private Answer answer(Request request) throws Exception {
        String path = request.path();
        if (request.changes() && !path.equals("/j_spring_security_check") && !carriesCrumb(request)) {
            return page(403, "Error 403", "<p>No valid crumb was included in the request</p>", headers);
        }
        String json = "{\"_class\":\"hudson.security.WhoAmI\",\"anonymous\":%s,\"name\":\"%s\"}";
        return switch (path) {
            case "/login" -> page(200, "Sign in - Jenkins", unlock(), headers);
            case "/loginError" -> page(home.waitsForSetup() ? 200 : 401, "Sign in - Jenkins",
                    "<p>The password is wrong.</p>" + unlock(), headers);
            case "/j_spring_security_check" -> signIn(request);
            case "/health" -> redirect("/health/");
            case "/health/" -> json("{\"status\":true}");
            case "/whoAmI/api/json" -> json(json.formatted(request.user().isEmpty(),
                    request.user().isEmpty() ? "anonymous" : request.user()));
            default -> open || !request.user().isEmpty() ? inside(request) : forbidden(request.exchange());
        };
    }

    private Answer inside(Request request) throws Exception {
        String path = request.path();
        Matcher job = JOB.matcher(path);
        if (ACTION.matcher(path).matches()) {
            return redirect(path + "/");
        }
        if (job.matches() && jobs.has(job.group(1))) {
            return ofJob(request, job);
        }
        return switch (path) {
            case "/" -> page(200, "Dashboard - Jenkins", "<p>You are in. There is nothing here.</p>", headers);
            case "/api/json" -> json(("{\"_class\":\"hudson.model.Hudson\",\"mode\":\"NORMAL\",\"jobs\":[%s],"
                    + "\"nodeDescription\":\"a stand-in, not Jenkins\",\"useSecurity\":%s}").formatted(
                    String.join(",", jobs.names().stream().map("{\"name\":\"%s\"}"::formatted).toList()), !open));
            case "/crumbIssuer/api/json" -> crumb(request);
            case "/createItem" -> request.changes() ? create(request) : onlyPost();
            case "/setupWizard/createAdminUser" -> request.changes() ? setUp(request) : onlyPost();
            case "/setupWizard/completeInstall" -> request.changes() ? complete() : onlyPost();
            default -> nothing();
        };
    }

    private Answer ofJob(Request request, Matcher asked) throws Exception {
        String name = asked.group(1);
        if (asked.group(2).equals("build")) {
            if (!request.changes()) {
                return onlyPost();
            }
            String item = prefix + "/queue/item/" + jobs.build(name) + "/";
            return new Answer(201, "text/plain", "", with("Location", item));
        }
        String which = asked.group(3);
        if (which == null) {
            return asked.group(4).equals("api/json") ? json("{\"name\":\"%s\"}".formatted(name)) : nothing();
        }
        int number = which.equals("lastBuild") ? jobs.lastBuild(name) : Integer.parseInt(which);
        if (number < 1 || number > jobs.lastBuild(name)) {
            return nothing();
        }
        if (asked.group(4).equals("consoleText")) {
            return new Answer(200, "text/plain", jobs.log(name, number), headers);
        }
        String result = jobs.result(name, number);
        return json("{\"number\":%d,\"building\":%s,\"result\":%s}".formatted(
                number, result.isEmpty(), result.isEmpty() ? "null" : "\"" + result + "\""));
    }

    private Answer create(Request request) throws IOException {
        String name = request.fields().getOrDefault("name", "");
        if (!NAME.matcher(name).matches() || jobs.has(name)) {
            return page(400, "Error", "<p>No job can be made of this name.</p>", headers);
        }
        jobs.create(name, request.body());
        return new Answer(200, "text/plain", "", headers);
    }

    private Answer setUp(Request request) throws Exception {
        String user = request.fields().getOrDefault("username", "");
        String password = request.fields().getOrDefault("password1", "");
        boolean sound = NAME.matcher(user).matches() && !password.isEmpty()
                && password.equals(request.fields().get("password2"));
        if (!home.waitsForSetup() || !sound) {
            return page(sound ? 404 : 422, "Error", "<p>No administrator was made.</p>", headers);
        }
        home.makeAdministrator(user, password);
        String session = sessions.begin(request.session(), user);
        return new Answer(200, "application/json", "{\"status\":\"ok\",\"data\":" + crumb(session, user) + "}",
                with(sessions.header(session)));
    }

    private Answer complete() throws IOException {
        home.finish(version);
        return json("{\"status\":\"ok\"}");
    }

    private Answer crumb(Request request) throws Exception {
        String session = request.session().isEmpty()
                ? sessions.begin("", request.user()) : request.session();
        return new Answer(200, "application/json", crumb(session, request.user()), with(sessions.header(session)));
    }

    private String crumb(String session, String user) throws Exception {
        return "{\"_class\":\"hudson.security.csrf.DefaultCrumbIssuer\",\"crumb\":\"%s\",".formatted(
                sessions.crumb(session, user)) + "\"crumbRequestField\":\"" + CRUMB + "\"}";
    }

    private boolean carriesCrumb(Request request) throws Exception {
        String told = request.exchange().getRequestHeaders().getFirst(CRUMB);
        return open || sessions.crumb(request.session(), request.user())
                .equals(told == null ? request.fields().get(CRUMB) : told);
    }

    private Answer forbidden(HttpExchange exchange) throws IOException {
        String from = URLEncoder.encode(exchange.getRequestURI().toString(), StandardCharsets.UTF_8);
        String login = prefix + "/login?from=" + from;
        return page(403, "Authentication required", "<meta http-equiv=\"refresh\" content=\"1;url=" + login
                + "\"><p>Authentication required</p>", headers);
    }

    private String unlock() {
        return open ? "<p>Nobody need sign in here: this instance is open to everybody.</p>" : """
                <h2>Sign in</h2>
                <p>%s</p>
                <form action="%s/j_spring_security_check" method="post">
                <input name="j_username" value="admin" aria-label="User">
                <input type="password" name="j_password" aria-label="Password" autofocus>
                <button>Continue</button>
                </form>""".formatted(home.waitsForSetup() ? "The administrator's password is in the log and in <code>"
                + escaped(home.passwordFile().toString()) + "</code>" : "", prefix);
    }

    private Answer signIn(Request request) throws Exception {
        String user = request.fields().getOrDefault("j_username", "");
        if (open || !home.admits(user, request.fields().getOrDefault("j_password", ""))) {
            return redirect("/loginError");
        }
        String from = request.fields().getOrDefault("from", "");
        String session = sessions.begin(request.session(), user);
        Map<String, String> more = new HashMap<>(sessions.header(session));
        more.put("Location", from.startsWith("/") && !from.startsWith("//") ? from : prefix + "/");
        return new Answer(302, "text/plain", "", with(more));
    }

    /** Returns the user that a request names by his name and password; empty where they aren't right. */
    private String admitted(String authorization) throws Exception {
        if (!authorization.startsWith("Basic ")) {
            return "";
        }
        byte[] decoded = Base64.getDecoder().decode(authorization.substring(6).trim());
        String[] parts = new String(decoded, StandardCharsets.UTF_8).split(":", 2);
        return parts.length == 2 && home.admits(parts[0], parts[1]) ? parts[0] : "";
    }

    private Answer redirect(String path) {
        return new Answer(302, "text/plain", "", with("Location", prefix + path));
    }

    private Answer onlyPost() throws IOException {
        return page(405, "Error 405", "<p>This takes a POST.</p>", headers);
    }

    private Answer nothing() throws IOException {
        return page(404, "Not Found", "<p>There is nothing here.</p>", headers);
    }

    private Answer json(String body) {
        return new Answer(200, "application/json", body, headers);
    }

    private Map<String, String> with(String name, String value) {
        return with(Map.of(name, value));
    }

    private Map<String, String> with(Map<String, String> more) {
        Map<String, String> all = new HashMap<>(headers);
        all.putAll(more);
        return all;
    }

    private static Map<String, String> fields(String text) {
        Map<String, String> fields = new HashMap<>();
        for (String field : text == null ? new String[0] : text.split("&")) {
            String[] parts = field.split("=", 2);
            fields.put(parts[0], parts.length < 2 ? "" : URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
        }
        return fields;
    }
}
