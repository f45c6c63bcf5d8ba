/*
 * wordfreq: how often each word occurs in its input.
 *
 *     wordfreq [-n COUNT] [FILE]...
 *
 * Reads the files, or standard input if there are none, and prints the COUNT
 * most frequent words (all without -n), the most frequent first and equally
 * frequent ones in alphabetical order. A word is a run of ASCII letters and
 * apostrophes, or of bytes above 127, in lower case.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct word {
    char *text;
    size_t length;
    unsigned long count;
};

static struct word *words; /* open addressing; an unused place has no text */
static size_t capacity;
static size_t used;

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "wordfreq: %s: %s\n", what, why);
    exit(1);
}

static void *checked(void *memory)
{
    if (memory == NULL)
        fail("memory", strerror(ENOMEM));
    return memory;
}

/* FNV-1a */
static unsigned long hash(const char *text, size_t length)
{
    unsigned long value = 2166136261u;
    for (size_t i = 0; i < length; i++)
        value = (value ^ (unsigned char)text[i]) * 16777619u;
    return value;
}

static struct word *find(struct word *table, size_t size, const char *text, size_t length)
{
    size_t place = hash(text, length) & (size - 1);
    while (table[place].text != NULL
           && (table[place].length != length || memcmp(table[place].text, text, length) != 0))
        place = (place + 1) & (size - 1);
    return &table[place];
}

static void grow(void)
{
    size_t size = capacity == 0 ? 1024 : capacity * 2;
    struct word *table = checked(calloc(size, sizeof *table));
    for (size_t i = 0; i < capacity; i++)
        if (words[i].text != NULL)
            *find(table, size, words[i].text, words[i].length) = words[i];
    free(words);
    words = table;
    capacity = size;
}

static void count(const char *text, size_t length)
{
    if (used * 2 >= capacity)
        grow();
    struct word *word = find(words, capacity, text, length);
    if (word->text == NULL) {
        word->text = checked(malloc(length + 1));
        memcpy(word->text, text, length);
        word->text[length] = '\0';
        word->length = length;
        used++;
    }
    word->count++;
}

static void read_words(FILE *file, const char *name)
{
    char *text = NULL;
    size_t length = 0, room = 0;
    int c;
    do {
        c = getc(file);
        if (c >= 'A' && c <= 'Z')
            c += 'a' - 'A';
        if ((c >= 'a' && c <= 'z') || c == '\'' || c > 127) {
            if (length == room)
                text = checked(realloc(text, room = room == 0 ? 64 : room * 2));
            text[length++] = (char)c;
        } else if (length > 0) {
            count(text, length);
            length = 0;
        }
    } while (c != EOF);
    if (ferror(file))
        fail(name, strerror(errno));
    free(text);
}

static int by_frequency(const void *left, const void *right)
{
    const struct word *a = left, *b = right;
    if (a->count != b->count)
        return a->count < b->count ? 1 : -1;
    return strcmp(a->text, b->text);
}

int main(int argc, char **argv)
{
    unsigned long limit = (unsigned long)-1;
    int first = 1;
    if (argc > 2 && strcmp(argv[1], "-n") == 0) {
        char *end;
        limit = strtoul(argv[2], &end, 10);
        if (end == argv[2] || *end != '\0')
            fail(argv[2], "not a number");
        first = 3;
    }
    if (first == argc)
        read_words(stdin, "standard input");
    for (int i = first; i < argc; i++) {
        FILE *file = fopen(argv[i], "r");
        if (file == NULL)
            fail(argv[i], strerror(errno));
        read_words(file, argv[i]);
        fclose(file);
    }
    size_t kept = 0;
    for (size_t i = 0; i < capacity; i++)
        if (words[i].text != NULL)
            words[kept++] = words[i];
    if (kept > 0)
        qsort(words, kept, sizeof *words, by_frequency);
    for (size_t i = 0; i < kept && i < limit; i++)
        printf("%7lu %s\n", words[i].count, words[i].text);
    if (fflush(stdout) != 0)
        fail("standard output", strerror(errno));
    return 0;
}
