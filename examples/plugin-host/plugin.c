/*
 * A plugin that removes what is personal from lines of a log: it replaces
 * e-mail addresses and long numbers, and tells the host how many there were.
 *
 * It is a module without a system interface. The host puts a line into
 * `buffer()`, which has room for LINE_MAX bytes, and calls `filter(length)`,
 * which changes the line in place and returns its new length.
 */
#define LINE_MAX 65536
#define EXPORT(name) __attribute__((export_name(name), used))

__attribute__((import_module("host"), import_name("found")))
void found(int kind, int offset);

enum { EMAIL = 1, NUMBER = 2 };

static char line[LINE_MAX];

EXPORT("buffer") char *buffer(void) { return line; }
EXPORT("capacity") int capacity(void) { return LINE_MAX; }

static int is_digit(char c) { return c >= '0' && c <= '9'; }

static int is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || is_digit(c) || c == '.' || c == '_'
        || c == '+' || c == '-';
}

/* An address is word characters, one @, and word characters with a dot. */
static int is_email(const char *text, int length)
{
    int at = -1, dot = 0;
    for (int i = 0; i < length; i++) {
        if (text[i] == '@') {
            if (at >= 0 || i == 0)
                return 0;
            at = i;
        } else if (text[i] == '.' && at >= 0 && i > at + 1 && i + 1 < length) {
            dot = 1;
        }
    }
    return dot;
}

/* At least seven characters, all digits but for dashes. */
static int is_number(const char *text, int length)
{
    int digits = 0;
    for (int i = 0; i < length; i++) {
        if (is_digit(text[i]))
            digits++;
        else if (text[i] != '-')
            return 0;
    }
    return digits >= 7;
}

static int put(int to, const char *text)
{
    while (*text != '\0')
        line[to++] = *text++;
    return to;
}

EXPORT("filter") int filter(int length)
{
    int to = 0;
    if (length < 0 || length > LINE_MAX)
        __builtin_trap();
    for (int from = 0; from < length;) {
        int end = from;
        while (end < length && (is_word(line[end]) || line[end] == '@'))
            end++;
        /* What replaces a token is at most as long: "a@b.c" has five letters. */
        if (is_email(line + from, end - from)) {
            found(EMAIL, from);
            to = put(to, "<@>");
        } else if (is_number(line + from, end - from)) {
            found(NUMBER, from);
            to = put(to, "<num>");
        } else {
            for (int i = from; i < end; i++)
                line[to++] = line[i];
        }
        if (end < length)
            line[to++] = line[end++];
        from = end;
    }
    return to;
}
