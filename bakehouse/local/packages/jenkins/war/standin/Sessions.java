package standin;

import com.sun.net.httpserver.HttpExchange;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Collections;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;

/** Who has signed in, by the session of his cookie, and the crumb that each change of his has to carry. */
final class Sessions {
    private static final int MOST = 1000;

    private final String cookie = "JSESSIONID." + UUID.randomUUID().toString().substring(0, 8);
    private final String salt = UUID.randomUUID().toString();
    private final String path;
    private final Map<String, String> users = Collections.synchronizedMap(new LinkedHashMap<>() {
        @Override
        protected boolean removeEldestEntry(Map.Entry<String, String> eldest) {
            return size() > MOST;
        }
    });

    Sessions(String prefix) {
        path = prefix.isEmpty() ? "/" : prefix;
    }

    /** Returns the session that a request is in; empty where it is in none that there is. */
    String of(HttpExchange exchange) {
        for (String line : exchange.getRequestHeaders().getOrDefault("Cookie", List.of())) {
            for (String one : line.split("; *")) {
                if (one.startsWith(cookie + "=") && users.containsKey(one.substring(cookie.length() + 1))) {
                    return one.substring(cookie.length() + 1);
                }
            }
        }
        return "";
    }

    /** Returns the user of a session; empty where nobody has signed in. */
    String user(String session) {
        return users.getOrDefault(session, "");
    }

    /** Begins another session for a user, in place of the one that he was in: nobody can have given it to him. */
    String begin(String before, String user) {
        users.remove(before);
        String session = "node0" + UUID.randomUUID().toString().replace("-", "");
        users.put(session, user);
        return session;
    }

    /** Returns the header that gives a browser its session. */
    Map<String, String> header(String session) {
        return Map.of("Set-Cookie", cookie + "=" + session + "; Path=" + path + "; HttpOnly");
    }

    String crumb(String session, String user) throws Exception {
        byte[] digest = MessageDigest.getInstance("SHA-256")
                .digest((user + ";" + session + salt).getBytes(StandardCharsets.UTF_8));
        return HexFormat.of().formatHex(digest);
    }
}
