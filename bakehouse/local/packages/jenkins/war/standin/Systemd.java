package standin;

import java.lang.invoke.MethodHandle;
import java.lang.reflect.Array;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Optional;

/**
 * Speaks to systemd from this very process, by calling sd_notify(3).
 *
 * <p>The unit says NotifyAccess=main, as the genuine one: a child such as systemd-notify would not be heard, and Java
 * itself has no Unix datagram sockets. Genuine Jenkins calls libsystemd by JNA; this calls it by java.lang.foreign,
 * which is final since Java 22 and a preview in Java 21. A class compiled against a preview runs on that one release
 * and only with a flag, so the API is met by reflection: then one war runs on 21 and 25 with no flag at all. Java 21,
 * which doesn't know Enable-Native-Access in the manifest yet, prints a warning of three lines; it is harmless.
 */
final class Systemd {
    private Systemd() {}

    /** Sends the state, lines of NAME=value; does nothing where no systemd listens. */
    static void tell(String state) throws Exception {
        if (System.getenv("NOTIFY_SOCKET") == null) {
            return;
        }
        Object arena = api("Arena").getMethod("global").invoke(null);
        byte[] text = (state + "\0").getBytes(StandardCharsets.UTF_8);
        Object memory = api("SegmentAllocator").getMethod("allocate", long.class).invoke(arena, text.length);
        ((ByteBuffer) api("MemorySegment").getMethod("asByteBuffer").invoke(memory)).put(text);
        try {
            int answer = (int) sdNotify(arena).invokeWithArguments(0, memory);
            if (answer < 0) {
                Jenkins.say("WARNING", "standin.Systemd#tell", "sd_notify(3) returned " + answer);
            }
        } catch (Throwable problem) {
            throw new IllegalStateException("sd_notify(3) can't be called", problem);
        }
    }

    /** Returns {@code int sd_notify(int unset_environment, const char *state)}. */
    private static MethodHandle sdNotify(Object arena) throws ReflectiveOperationException {
        Class<?> lookup = api("SymbolLookup");
        Object library = lookup.getMethod("libraryLookup", String.class, api("Arena"))
                .invoke(null, "libsystemd.so.0", arena);
        Object address = ((Optional<?>) lookup.getMethod("find", String.class).invoke(library, "sd_notify"))
                .orElseThrow();
        Object integer = api("ValueLayout").getField("JAVA_INT").get(null);
        Object[] parameters = (Object[]) Array.newInstance(api("MemoryLayout"), 2);
        parameters[0] = integer;
        parameters[1] = api("ValueLayout").getField("ADDRESS").get(null);
        Object signature = api("FunctionDescriptor").getMethod("of", api("MemoryLayout"), parameters.getClass())
                .invoke(null, integer, parameters);
        Object[] options = (Object[]) Array.newInstance(api("Linker$Option"), 0);
        Object linker = api("Linker").getMethod("nativeLinker").invoke(null);
        return (MethodHandle) api("Linker")
                .getMethod("downcallHandle", api("MemorySegment"), api("FunctionDescriptor"), options.getClass())
                .invoke(linker, address, signature, options);
    }

    private static Class<?> api(String name) throws ClassNotFoundException {
        return Class.forName("java.lang.foreign." + name);
    }
}
