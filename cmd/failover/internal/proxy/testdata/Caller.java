import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A program in Java that knows nothing about failovers. It does the same work three
 * times, and waits for a line on its standard input in between: meanwhile the
 * organization fails over, and back.
 *
 * java Caller.java URL-OF-THE-PROXY TOKEN
 */
public class Caller {
    static final HttpClient client = HttpClient.newHttpClient();
    static String root;
    static String token;

    public static void main(String[] args) throws Exception {
        root = args[0] + "/api/data/v9.2/";
        token = args[1];
        String next = page(root + "accounts?$select=name"); // continue after the failover
        for (int round = 0; round < 3; round++) {
            if (round > 0) {
                System.out.println("ready");
                System.in.read();
            }
            upload(round);
            String id = create();
            expect(200, send("GET", root + "accounts(" + id + ")", BodyPublishers.noBody()));
            for (; next != null; next = page(next)) {
            }
            next = page(root + "accounts?$select=name");
        }
        System.out.println("done");
    }

    /** Reads a page and returns the link to the next one, null after the last. */
    static String page(String url) throws Exception {
        HttpResponse<String> page = expect(200, send("GET", url, BodyPublishers.noBody()));
        if (page.body().contains("dynamics.com")) {
            throw new Exception("a link leads past the proxy: " + page.body());
        }
        Matcher link = Pattern.compile("\"@odata.nextLink\":\"([^\"]+)\"").matcher(page.body());
        return link.find() ? link.group(1).replace("\\u0026", "&") : null; // JSON may escape it
    }

    /** Creates an account under an id of its own, so that it may be sent twice. */
    static String create() throws Exception {
        String id = UUID.randomUUID().toString();
        HttpResponse<String> answer = send("POST", root + "accounts",
                BodyPublishers.ofString("{\"accountid\":\"" + id + "\",\"name\":\"Java\"}"));
        if (answer.statusCode() != 412) {
            expect(204, answer);
            String location = answer.headers().firstValue("OData-EntityId").get();
            if (!location.equals(root + "accounts(" + id + ")")) {
                throw new Exception("not led through the proxy: " + location);
            }
        }
        return id;
    }

    /** Uploads 3 MiB of a length that is not told. */
    static void upload(int round) throws Exception {
        byte[] body = ("{\"documentbody\":\"" + "x".repeat(3 << 20) + "\"}").getBytes();
        HttpRequest.BodyPublisher stream = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
        expect(204, send("PATCH", root + "annotations(" + new UUID(0, round) + ")", stream));
    }

    static HttpResponse<String> send(String method, String url, HttpRequest.BodyPublisher body) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofMinutes(1))
                .method(method, body)
                .header("Authorization", "Bearer " + token)
                .header("Content-Type", "application/json")
                .header("Idempotency-Key", UUID.randomUUID().toString())
                .build();
        return client.send(request, BodyHandlers.ofString());
    }

    static HttpResponse<String> expect(int status, HttpResponse<String> answer) throws Exception {
        if (answer.statusCode() != status) {
            throw new Exception(answer + " " + answer.body());
        }
        return answer;
    }
}
