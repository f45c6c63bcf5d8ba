/* A loader in C, as small as the format and the ABI allow, which artifacts are linked with.
 *
 * It shows that FORMAT.md and the description of the ABI suffice to run an artifact, and runs code of
 * targets that the loader itself cannot be built for here. It checks nothing: its artifacts come from the test.
 *
 * It reads commands, one per line, and answers each with one line:
 *
 *   instance MODULE                  ok | trap CODE
 *   register INSTANCE NAME           ok
 *   call INSTANCE NAME RESULTS COUNT VALUE..   ok VALUE.. | trap CODE | error TEXT
 *   get INSTANCE NAME                ok VALUE | error TEXT
 *
 * Instances are numbered in the order of their commands, from 0. Names are in hexadecimal, after an `x`; a value is a
 * slot of 16 bytes in hexadecimal, the most significant byte first.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

/* The constants of the ABI and of the format, and the modules: written by the test. */
#include "abi.h"

struct linked {
    const uint8_t *bytes;
    const uint8_t *size;
};
extern const struct linked linked_modules[];
extern const unsigned linked_count;

static void die(const char *what) {
    fprintf(stderr, "host: %s\n", what);
    exit(3);
}

static void *allocate(size_t size) {
    void *memory = calloc(1, size ? size : 1);
    if (!memory) die("no memory");
    return memory;
}

static uint32_t u32_at(const uint8_t *bytes) {
    return bytes[0] | bytes[1] << 8 | bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static uint64_t u64_at(const uint8_t *bytes) {
    return u32_at(bytes) | (uint64_t)u32_at(bytes + 4) << 32;
}

/* Structures that compiled code uses. The assertions tie them to the ABI. */

struct memory {
    uint8_t *base;
    uint64_t bytes;
    uint64_t max_bytes;
    unsigned page_size_log2;
};
_Static_assert(offsetof(struct memory, base) == MEMORY_DEFINITION_BASE, "ABI");
_Static_assert(offsetof(struct memory, bytes) == MEMORY_DEFINITION_BYTE_LENGTH, "ABI");

struct table {
    uint64_t *elements;
    uint64_t length;
    uint64_t max;
};
_Static_assert(offsetof(struct table, elements) == TABLE_DEFINITION_ELEMENTS, "ABI");
_Static_assert(offsetof(struct table, length) == TABLE_DEFINITION_LENGTH, "ABI");

struct func_ref {
    const uint8_t *code;
    void *vmctx;
    uint32_t type_id;
    uint32_t zero;
    const uint8_t *entry;
};
_Static_assert(offsetof(struct func_ref, code) == FUNC_REF_CODE, "ABI");
_Static_assert(offsetof(struct func_ref, vmctx) == FUNC_REF_VMCTX, "ABI");
_Static_assert(offsetof(struct func_ref, type_id) == FUNC_REF_TYPE_ID, "ABI");
_Static_assert(offsetof(struct func_ref, entry) == FUNC_REF_ENTRY, "ABI");
_Static_assert(sizeof(struct func_ref) == FUNC_REF_SIZE, "ABI");

struct func_import {
    const uint8_t *code;
    void *vmctx;
    struct func_ref *func_ref;
};
_Static_assert(offsetof(struct func_import, func_ref) == FUNC_IMPORT_FUNC_REF, "ABI");
_Static_assert(sizeof(struct func_import) == FUNC_IMPORT_SIZE, "ABI");

static union {
    uint8_t bytes[STORE_CONTEXT_SIZE];
    uint64_t words[STORE_CONTEXT_SIZE / 8];
} store;

static uint64_t *store_word(unsigned offset) {
    return &store.words[offset / 8];
}

typedef uint8_t entry_trampoline(void *vmctx, const uint8_t *code, void *values, void *store);

/* Artifacts. */

struct artifact {
    const uint8_t *file;
    uint8_t *text;
    uint64_t text_length;
};

static struct artifact *artifacts;

static const uint8_t *section(const struct artifact *artifact, unsigned number) {
    return artifact->file + u64_at(artifact->file + HEADER_OFFSET + HEADER_SECTIONS + 16 * number);
}

static uint64_t section_length(const struct artifact *artifact, unsigned number) {
    return u64_at(artifact->file + HEADER_OFFSET + HEADER_SECTIONS + 16 * number + 8);
}

static uint64_t records(const struct artifact *artifact, unsigned number, unsigned size) {
    return section_length(artifact, number) / size;
}

static void load(struct artifact *artifact, const uint8_t *bytes) {
    artifact->file = bytes;
    artifact->text_length = section_length(artifact, SECTION_TEXT);
    if (!artifact->text_length) return;
    artifact->text = mmap(NULL, artifact->text_length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (artifact->text == MAP_FAILED) die("cannot map the code");
    memcpy(artifact->text, section(artifact, SECTION_TEXT), artifact->text_length);
    if (mprotect(artifact->text, artifact->text_length, PROT_READ | PROT_EXEC)) die("cannot make the code executable");
    __builtin___clear_cache((char *)artifact->text, (char *)artifact->text + artifact->text_length);
}

static uint32_t leb(const uint8_t **at) {
    uint32_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        uint8_t byte = *(*at)++;
        value |= (uint32_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return value;
    }
}

/* The trap code of the site at an offset in the text, or 0. */
static unsigned trap_at(const struct artifact *artifact, uint32_t offset) {
    const uint8_t *sites = section(artifact, SECTION_SITES);
    uint64_t length = section_length(artifact, SECTION_SITES);
    if (!length) return 0;
    uint32_t count = u32_at(sites);
    const uint8_t *blocks = sites + 4, *entries = blocks + 12 * (size_t)count, *end = sites + length;
    for (uint32_t block = 0; block < count; block++) {
        const uint8_t *record = blocks + 12 * (size_t)block;
        const uint8_t *at = entries + u32_at(record + 8);
        const uint8_t *stop = block + 1 < count ? entries + u32_at(record + 12 + 8) : end;
        uint32_t text = u32_at(record);
        while (at < stop) {
            uint32_t step = leb(&at);
            unsigned trap = 0;
            text += step / 4;
            if (step % 4 == 1) trap = TRAP_MEMORY_OUT_OF_BOUNDS;
            if (step % 4 == 2) trap = *at++;
            leb(&at);
            if (text == offset && trap) return trap;
        }
    }
    return 0;
}

/* Traps. */

static volatile unsigned last_trap;
static volatile int inside;

#if defined(__aarch64__)
#define PC(context) (context)->uc_mcontext.pc
#define SP(context) (context)->uc_mcontext.sp
#define FP(context) (context)->uc_mcontext.regs[29]
#elif defined(__riscv)
#define PC(context) (context)->uc_mcontext.__gregs[0]
#define SP(context) (context)->uc_mcontext.__gregs[2]
#define FP(context) (context)->uc_mcontext.__gregs[8]
#elif defined(__x86_64__)
#define PC(context) (context)->uc_mcontext.gregs[REG_RIP]
#define SP(context) (context)->uc_mcontext.gregs[REG_RSP]
#define FP(context) (context)->uc_mcontext.gregs[REG_RBP]
#else
#error "how does a trap leave wasm on this architecture?"
#endif

static void trapped(int signal, siginfo_t *info, void *argument) {
    ucontext_t *context = argument;
    uintptr_t pc = PC(context);
    (void)info;
    for (unsigned number = 0; inside && number < linked_count; number++) {
        struct artifact *artifact = &artifacts[number];
        if (pc - (uintptr_t)artifact->text >= artifact->text_length) continue;
        unsigned trap = trap_at(artifact, (uint32_t)(pc - (uintptr_t)artifact->text));
        if (!trap) break;
        last_trap = trap;
        SP(context) = *store_word(STORE_CONTEXT_ENTRY_SP);
        FP(context) = *store_word(STORE_CONTEXT_ENTRY_FP);
        PC(context) = *store_word(STORE_CONTEXT_ENTRY_HANDLER);
        return;
    }
    fprintf(stderr, "host: signal %d at %#zx is no trap\n", signal, (size_t)pc);
    _exit(4);
}

static void catch_traps(void) {
    static const int signals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP};
    stack_t stack = {.ss_sp = allocate(1 << 18), .ss_size = 1 << 18};
    struct sigaction action = {.sa_sigaction = trapped, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigaltstack(&stack, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
}

/* Instances. */

struct instance {
    const struct artifact *artifact;
    uint8_t *vmctx;
    struct func_ref **functions; /* By index; NULL for those without a reference. */
    struct memory **memories;
    struct table **tables;
    uint8_t **globals;
    uint64_t **elements; /* Of each element segment. */
    uint64_t *element_counts;
    uint64_t *data_lengths;
    struct func_ref *func_refs;
    uint32_t imported_functions;
    const char *registered;
};

static struct instance *instances[4096];
static unsigned instance_count;

static struct instance *owner(const void *vmctx) {
    return *(struct instance **)((uintptr_t)vmctx - 16);
}

static void put(uint8_t *vmctx, uint64_t offset, uint64_t value) {
    memcpy(vmctx + offset, &value, 8);
}

static struct memory *new_memory(uint64_t pages, uint64_t max_pages, unsigned page_size_log2) {
    struct memory *memory = allocate(sizeof *memory);
    uint64_t most = page_size_log2 ? UINT64_C(1) << 16 : UINT64_C(1) << 32;
    memory->page_size_log2 = page_size_log2;
    memory->max_bytes = (max_pages < most ? max_pages : most) << page_size_log2;
    memory->bytes = pages << page_size_log2;
    memory->base = mmap(NULL, GUARDED_SPACE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory->base == MAP_FAILED) die("cannot reserve a memory");
    /* A page of bytes needs no fence: its accesses are checked. */
    if (memory->bytes && mprotect(memory->base, memory->bytes, PROT_READ | PROT_WRITE)) die("cannot make a memory");
    return memory;
}

static struct table *new_table(uint64_t length, uint64_t max, uint64_t value) {
    struct table *table = allocate(sizeof *table);
    table->length = length;
    table->max = max;
    table->elements = allocate(length * 8);
    for (uint64_t i = 0; i < length; i++) table->elements[i] = value;
    return table;
}

static uint32_t type_id(const struct artifact *artifact, uint32_t type) {
    static struct { uint32_t params, count; const uint8_t *types; } known[4096];
    static uint32_t known_count;
    const uint8_t *record = section(artifact, SECTION_TYPES) + TYPE_RECORD_SIZE * (size_t)type;
    const uint8_t *types = section(artifact, SECTION_VALTYPES) + 4 * (size_t)u32_at(record);
    uint32_t count = u32_at(record + 4), params = u32_at(record + 8);
    for (uint32_t id = 0; id < known_count; id++)
        if (known[id].params == params && known[id].count == count && !memcmp(known[id].types, types, 4 * (size_t)count))
            return id;
    if (known_count == sizeof known / sizeof *known) die("too many types");
    known[known_count].params = params;
    known[known_count].count = count;
    known[known_count].types = types;
    return known_count++;
}

/* Builtins that wasm code calls. */

static uint64_t memory_grow(void *vmctx, uint32_t number, uint64_t delta) {
    struct memory *memory = owner(vmctx)->memories[number];
    uint64_t old = memory->bytes, pages = old >> memory->page_size_log2;
    uint64_t room = (memory->max_bytes - old) >> memory->page_size_log2;
    if (delta > room) return UINT64_MAX;
    uint64_t grown = old + (delta << memory->page_size_log2);
    if (grown && mprotect(memory->base, grown, PROT_READ | PROT_WRITE)) return UINT64_MAX;
    memory->bytes = grown;
    return pages;
}

static int out(uint64_t start, uint64_t length, uint64_t size) {
    return start > size || length > size - start;
}

static uint32_t memory_copy(void *vmctx, uint32_t to, uint32_t from, uint64_t dst, uint64_t src, uint64_t length) {
    struct memory *target = owner(vmctx)->memories[to], *source = owner(vmctx)->memories[from];
    if (out(dst, length, target->bytes) || out(src, length, source->bytes)) return 0;
    memmove(target->base + dst, source->base + src, length);
    return 1;
}

static uint32_t memory_fill(void *vmctx, uint32_t number, uint64_t dst, uint32_t byte, uint64_t length) {
    struct memory *memory = owner(vmctx)->memories[number];
    if (out(dst, length, memory->bytes)) return 0;
    memset(memory->base + dst, (int)byte, length);
    return 1;
}

static void memory_move(void *vmctx, uint8_t *to, const uint8_t *from, uint64_t length) {
    (void)vmctx;
    memmove(to, from, length);
}

static void memory_set(void *vmctx, uint8_t *to, uint32_t byte, uint64_t length) {
    (void)vmctx;
    memset(to, (int)byte, length);
}

static uint32_t memory_init(void *vmctx, uint32_t number, uint32_t segment, uint64_t dst, uint32_t src, uint32_t length) {
    struct instance *instance = owner(vmctx);
    struct memory *memory = instance->memories[number];
    const uint8_t *record = section(instance->artifact, SECTION_DATASEGS) + 40 * (size_t)segment;
    if (out(dst, length, memory->bytes) || out(src, length, instance->data_lengths[segment])) return 0;
    memcpy(memory->base + dst, section(instance->artifact, SECTION_DATA) + u64_at(record + 16) + src, length);
    return 1;
}

static void data_drop(void *vmctx, uint32_t segment) {
    owner(vmctx)->data_lengths[segment] = 0;
}

static uint64_t table_grow(void *vmctx, uint32_t number, uint64_t delta, uint64_t value) {
    struct table *table = owner(vmctx)->tables[number];
    uint64_t old = table->length;
    if (delta > table->max - old || old + delta > 10000000) return UINT64_MAX;
    table->elements = realloc(table->elements, (old + delta + 1) * 8);
    if (!table->elements) die("no memory");
    for (uint64_t i = old; i < old + delta; i++) table->elements[i] = value;
    table->length = old + delta;
    return old;
}

static uint32_t table_copy(void *vmctx, uint32_t to, uint32_t from, uint64_t dst, uint64_t src, uint64_t length) {
    struct table *target = owner(vmctx)->tables[to], *source = owner(vmctx)->tables[from];
    if (out(dst, length, target->length) || out(src, length, source->length)) return 0;
    memmove(target->elements + dst, source->elements + src, length * 8);
    return 1;
}

static uint32_t table_fill(void *vmctx, uint32_t number, uint64_t dst, uint64_t value, uint64_t length) {
    struct table *table = owner(vmctx)->tables[number];
    if (out(dst, length, table->length)) return 0;
    for (uint64_t i = 0; i < length; i++) table->elements[dst + i] = value;
    return 1;
}

static uint32_t table_init(void *vmctx, uint32_t number, uint32_t segment, uint64_t dst, uint32_t src, uint32_t length) {
    struct instance *instance = owner(vmctx);
    struct table *table = instance->tables[number];
    if (out(dst, length, table->length) || out(src, length, instance->element_counts[segment])) return 0;
    memcpy(table->elements + dst, instance->elements[segment] + src, 8 * (size_t)length);
    return 1;
}

static void elem_drop(void *vmctx, uint32_t segment) {
    owner(vmctx)->element_counts[segment] = 0;
}

static uint64_t memory_notify(void *vmctx, uint32_t number, uint64_t address, uint32_t count) {
    (void)count;
    return out(address, 4, owner(vmctx)->memories[number]->bytes) ? UINT64_MAX : 0;
}

static void missing(void) {
    die("a builtin that this host does not have was called");
}

static const void *builtins[BUILTIN_COUNT];

static void fill_builtins(void) {
    for (unsigned i = 0; i < BUILTIN_COUNT; i++) builtins[i] = (const void *)missing;
    builtins[BUILTIN_MEMORY_GROW] = (const void *)memory_grow;
    builtins[BUILTIN_MEMORY_COPY] = (const void *)memory_copy;
    builtins[BUILTIN_MEMORY_FILL] = (const void *)memory_fill;
    builtins[BUILTIN_MEMORY_MOVE] = (const void *)memory_move;
    builtins[BUILTIN_MEMORY_SET] = (const void *)memory_set;
    builtins[BUILTIN_MEMORY_INIT] = (const void *)memory_init;
    builtins[BUILTIN_DATA_DROP] = (const void *)data_drop;
    builtins[BUILTIN_TABLE_GROW] = (const void *)table_grow;
    builtins[BUILTIN_TABLE_COPY] = (const void *)table_copy;
    builtins[BUILTIN_TABLE_FILL] = (const void *)table_fill;
    builtins[BUILTIN_TABLE_INIT] = (const void *)table_init;
    builtins[BUILTIN_ELEM_DROP] = (const void *)elem_drop;
    builtins[BUILTIN_MEMORY_NOTIFY] = (const void *)memory_notify;
}

/* Host functions: all of `spectest` do nothing. */

struct host_context {
    uint32_t magic, zero;
    void *store;
    const void *builtins;
    const void *call;
    struct func_ref func_ref;
};
_Static_assert(offsetof(struct host_context, call) == HOST_CONTEXT_CALL, "ABI");

static uint8_t print(void *context, void *values) {
    (void)context, (void)values;
    return HOST_RETURNED;
}

static struct func_ref *host_function(const struct artifact *artifact, uint32_t type) {
    const uint8_t *record = section(artifact, SECTION_TYPES) + TYPE_RECORD_SIZE * (size_t)type;
    struct host_context *context = allocate(sizeof *context);
    context->magic = HOST_CONTEXT_MAGIC;
    context->store = &store;
    context->builtins = builtins;
    context->call = (const void *)print;
    context->func_ref.code = artifact->text + u32_at(record + 16);
    context->func_ref.vmctx = context;
    context->func_ref.type_id = type_id(artifact, type);
    return &context->func_ref;
}

/* Names. */

struct name {
    const uint8_t *bytes;
    uint32_t length;
};

static struct name name_at(const struct artifact *artifact, const uint8_t *text) {
    struct name name = {section(artifact, SECTION_STRINGS) + u32_at(text), u32_at(text + 4)};
    return name;
}

static int is(struct name name, const char *text) {
    return name.length == strlen(text) && !memcmp(name.bytes, text, name.length);
}

static const uint8_t *find_export(const struct instance *instance, struct name wanted) {
    uint64_t count = records(instance->artifact, SECTION_EXPORTS, 16);
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *record = section(instance->artifact, SECTION_EXPORTS) + 16 * i;
        struct name name = name_at(instance->artifact, record);
        if (name.length == wanted.length && !memcmp(name.bytes, wanted.bytes, name.length)) return record;
    }
    return NULL;
}

/* What is imported by these names, or NULL: a func_ref, memory, table, or the storage of a global. */
static void *provide(const struct artifact *artifact, const uint8_t *record) {
    static struct memory *memory;
    static struct table *table;
    struct name module = name_at(artifact, record), name = name_at(artifact, record + 8);
    uint32_t kind = u32_at(record + 16);
    if (is(module, "spectest")) {
        if (kind == KIND_FUNC) return host_function(artifact, u32_at(record + 20));
        if (kind == KIND_MEMORY) return memory ? memory : (memory = new_memory(1, 2, 16));
        if (kind == KIND_TABLE) return table ? table : (table = new_table(10, 20, 0));
        if (kind != KIND_GLOBAL) return NULL;
        uint8_t *storage = aligned_alloc(16, 16);
        float single = 666.6f;
        double twice = 666.6;
        uint64_t integer = 666;
        memset(storage, 0, 16);
        if (is(name, "global_f32")) memcpy(storage, &single, 4);
        else if (is(name, "global_f64")) memcpy(storage, &twice, 8);
        else memcpy(storage, &integer, 8);
        return storage;
    }
    for (unsigned i = instance_count; i-- > 0;) {
        struct instance *instance = instances[i];
        if (!instance || !instance->registered || !is(module, instance->registered)) continue;
        const uint8_t *found = find_export(instance, name);
        if (!found || u32_at(found + 8) != kind) return NULL;
        uint32_t index = u32_at(found + 12);
        switch (kind) {
        case KIND_FUNC: return instance->functions[index];
        case KIND_MEMORY: return instance->memories[index];
        case KIND_TABLE: return instance->tables[index];
        case KIND_GLOBAL: return instance->globals[index];
        }
    }
    return NULL;
}

struct value {
    uint64_t low, high;
};

static struct value evaluate(const struct instance *instance, const uint8_t *span) {
    struct value stack[64];
    unsigned depth = 0;
    uint32_t start = u32_at(span), count = u32_at(span + 4);
    for (uint32_t i = start; i < start + count; i++) {
        const uint8_t *record = section(instance->artifact, SECTION_CONSTOPS) + 24 * (size_t)i;
        uint32_t op = u32_at(record), index = u32_at(record + 4);
        struct value value = {u64_at(record + 8), u64_at(record + 16)};
        if (op >= 9) {
            uint64_t b = stack[--depth].low, a = stack[--depth].low;
            uint64_t result = (op - 9) % 3 == 0 ? a + b : (op - 9) % 3 == 1 ? a - b : a * b;
            value.low = op < 12 ? (uint32_t)result : result;
            value.high = 0;
        } else if (op == 6) {
            memcpy(&value, instance->globals[index], 16);
        } else if (op == 7) {
            value.low = (uint64_t)(uintptr_t)instance->functions[index];
        } else if (op == 8) {
            value.low = 0;
        }
        if (depth == 64) die("an expression is too deep");
        stack[depth++] = value;
    }
    return stack[0];
}

static uint64_t align(uint64_t offset, uint64_t to) {
    return (offset + to - 1) / to * to;
}

static unsigned call(struct func_ref *function, void *values) {
    if (*(const uint32_t *)function->vmctx == HOST_CONTEXT_MAGIC) return print(function->vmctx, values) == HOST_RETURNED ? 0 : 1;
    if (!function->entry) die("a function has no entry trampoline");
    entry_trampoline *entry = (entry_trampoline *)(uintptr_t)function->entry;
    *store_word(STORE_CONTEXT_STACK_LIMIT) = (uint64_t)(uintptr_t)__builtin_frame_address(0) - (1 << 20);
    inside = 1;
    uint8_t returned = entry(function->vmctx, function->code, values, &store);
    inside = 0;
    return returned ? 0 : last_trap;
}

/* Makes an instance; returns a trap code, 0 if all is well, or -1 if an import is missing. */
static int instantiate(struct artifact *artifact) {
    const uint8_t *module = section(artifact, SECTION_MODULE);
    uint64_t import_count = records(artifact, SECTION_IMPORTS, 48), defined[5], imported[5] = {0};
    uint64_t types = records(artifact, SECTION_TYPES, TYPE_RECORD_SIZE), func_refs = records(artifact, SECTION_FUNCREFS, 12);
    defined[KIND_FUNC] = records(artifact, SECTION_FUNCTIONS, 16);
    defined[KIND_TABLE] = records(artifact, SECTION_TABLES, 40);
    defined[KIND_MEMORY] = records(artifact, SECTION_MEMORIES, 40);
    defined[KIND_GLOBAL] = records(artifact, SECTION_GLOBALS, 40);
    defined[KIND_TAG] = records(artifact, SECTION_TAGS, 40);
    for (uint64_t i = 0; i < import_count; i++)
        imported[u32_at(section(artifact, SECTION_IMPORTS) + 48 * i + 16)]++;

    /* The order and alignment of the parts are the ABI's. */
    uint64_t memories = VMCTX_HEAD_SIZE;
    uint64_t own_globals = align(memories + (imported[KIND_MEMORY] + defined[KIND_MEMORY]) * 16, 16);
    uint64_t tables = own_globals + defined[KIND_GLOBAL] * VALUE_SIZE;
    uint64_t globals = tables + (imported[KIND_TABLE] + defined[KIND_TABLE]) * 8;
    uint64_t tags = globals + imported[KIND_GLOBAL] * 8;
    uint64_t functions = tags + (imported[KIND_TAG] + defined[KIND_TAG]) * 8;
    uint64_t type_ids = functions + imported[KIND_FUNC] * FUNC_IMPORT_SIZE;
    uint64_t refs = align(type_ids + types * 4, 16);
    uint64_t size = align(refs + func_refs * FUNC_REF_SIZE, 16);

    struct instance *instance = allocate(sizeof *instance);
    uint8_t *block = aligned_alloc(16, size + 16);
    memset(block, 0, size + 16);
    *(struct instance **)block = instance;
    instance->artifact = artifact;
    instance->vmctx = block + 16;
    instance->functions = allocate((imported[KIND_FUNC] + defined[KIND_FUNC]) * sizeof(void *));
    instance->memories = allocate((imported[KIND_MEMORY] + defined[KIND_MEMORY]) * sizeof(void *));
    instance->tables = allocate((imported[KIND_TABLE] + defined[KIND_TABLE]) * sizeof(void *));
    instance->globals = allocate((imported[KIND_GLOBAL] + defined[KIND_GLOBAL]) * sizeof(void *));
    instance->func_refs = (struct func_ref *)(instance->vmctx + refs);
    uint32_t magic = VMCTX_MAGIC;
    memcpy(instance->vmctx + VMCTX_MAGIC_OFFSET, &magic, 4);
    put(instance->vmctx, VMCTX_STORE_CONTEXT, (uint64_t)(uintptr_t)&store);
    put(instance->vmctx, VMCTX_BUILTINS, (uint64_t)(uintptr_t)builtins);

    uint64_t next[5] = {0};
    for (uint64_t i = 0; i < import_count; i++) {
        const uint8_t *record = section(artifact, SECTION_IMPORTS) + 48 * i;
        uint32_t kind = u32_at(record + 16);
        void *item = provide(artifact, record);
        if (!item) return -1;
        uint64_t index = next[kind]++;
        switch (kind) {
        case KIND_FUNC: {
            struct func_ref *function = item;
            struct func_import import = {function->code, function->vmctx, function};
            instance->functions[index] = function;
            memcpy(instance->vmctx + functions + index * FUNC_IMPORT_SIZE, &import, sizeof import);
            break;
        }
        case KIND_MEMORY: instance->memories[index] = item; break;
        case KIND_TABLE: instance->tables[index] = item; break;
        case KIND_GLOBAL:
            instance->globals[index] = item;
            put(instance->vmctx, globals + index * 8, (uint64_t)(uintptr_t)item);
            break;
        }
    }
    for (uint64_t i = 0; i < types; i++) {
        uint32_t id = type_id(artifact, (uint32_t)i);
        memcpy(instance->vmctx + type_ids + 4 * i, &id, 4);
    }
    for (uint64_t i = 0; i < func_refs; i++) {
        const uint8_t *record = section(artifact, SECTION_FUNCREFS) + 12 * i;
        uint32_t function = u32_at(record), type = u32_at(record + 8);
        const uint8_t *type_record = section(artifact, SECTION_TYPES) + TYPE_RECORD_SIZE * (size_t)type;
        uint32_t entry = u32_at(type_record + 12);
        struct func_ref *ref = &instance->func_refs[i];
        ref->code = artifact->text + u32_at(record + 4);
        ref->vmctx = instance->vmctx;
        ref->type_id = type_id(artifact, type);
        ref->entry = entry == NONE ? NULL : artifact->text + entry;
        instance->functions[function] = ref;
    }
    for (uint64_t i = 0; i < defined[KIND_MEMORY]; i++) {
        const uint8_t *record = section(artifact, SECTION_MEMORIES) + 40 * i;
        uint64_t max = u32_at(record + 8) & 1 ? u64_at(record + 24) : UINT64_MAX;
        instance->memories[imported[KIND_MEMORY] + i] = new_memory(u64_at(record + 16), max, u32_at(record + 4));
    }
    for (uint64_t i = 0; i < imported[KIND_MEMORY] + defined[KIND_MEMORY]; i++) {
        put(instance->vmctx, memories + 16 * i + MEMORY_SLOT_BASE, (uint64_t)(uintptr_t)instance->memories[i]->base);
        put(instance->vmctx, memories + 16 * i + MEMORY_SLOT_DEFINITION, (uint64_t)(uintptr_t)instance->memories[i]);
    }
    for (uint64_t i = 0; i < defined[KIND_GLOBAL]; i++) {
        uint8_t *storage = instance->vmctx + own_globals + i * VALUE_SIZE;
        struct value value = evaluate(instance, section(artifact, SECTION_GLOBALS) + 40 * i + 32);
        instance->globals[imported[KIND_GLOBAL] + i] = storage;
        memcpy(storage, &value, 16);
    }
    for (uint64_t i = 0; i < defined[KIND_TABLE]; i++) {
        const uint8_t *record = section(artifact, SECTION_TABLES) + 40 * i;
        uint64_t max = u32_at(record + 8) & 1 ? u64_at(record + 24) : UINT64_MAX;
        uint64_t value = u32_at(record + 36) ? evaluate(instance, record + 32).low : 0;
        instance->tables[imported[KIND_TABLE] + i] = new_table(u64_at(record + 16), max, value);
    }
    for (uint64_t i = 0; i < imported[KIND_TABLE] + defined[KIND_TABLE]; i++)
        put(instance->vmctx, tables + 8 * i, (uint64_t)(uintptr_t)instance->tables[i]);

    uint64_t segments = records(artifact, SECTION_ELEMENTS, 32);
    instance->elements = allocate(segments * sizeof(void *));
    instance->element_counts = allocate(segments * 8);
    for (uint64_t i = 0; i < segments; i++) {
        const uint8_t *record = section(artifact, SECTION_ELEMENTS) + 32 * i;
        uint32_t start = u32_at(record + 24), count = u32_at(record + 28);
        instance->elements[i] = allocate(8 * (size_t)count);
        instance->element_counts[i] = count;
        for (uint32_t item = 0; item < count; item++) {
            const uint8_t *entry = section(artifact, SECTION_ITEMS) + 8 * (size_t)(start + item);
            instance->elements[i][item] = u32_at(record + 20) ? evaluate(instance, entry).low
                : (uint64_t)(uintptr_t)instance->functions[u32_at(entry)];
        }
    }
    uint64_t data = records(artifact, SECTION_DATASEGS, 40);
    instance->data_lengths = allocate(data * 8);
    for (uint64_t i = 0; i < data; i++)
        instance->data_lengths[i] = u64_at(section(artifact, SECTION_DATASEGS) + 40 * i + 24);
    instances[instance_count - 1] = instance;

    /* Segments, in the order of the specification; images stand for the first of the data. */
    for (uint64_t i = 0; i < segments; i++) {
        const uint8_t *record = section(artifact, SECTION_ELEMENTS) + 32 * i;
        if (u32_at(record) == 0) {
            uint64_t offset = evaluate(instance, record + 8).low;
            if (!table_init(instance->vmctx, u32_at(record + 4), (uint32_t)i, offset, 0, u32_at(record + 28)))
                return TRAP_TABLE_OUT_OF_BOUNDS;
        }
        if (u32_at(record) != 1) instance->element_counts[i] = 0;
    }
    for (uint64_t i = 0; i < records(artifact, SECTION_IMAGES, 32); i++) {
        const uint8_t *record = section(artifact, SECTION_IMAGES) + 32 * i;
        memcpy(instance->memories[u32_at(record)]->base + u64_at(record + 8),
               section(artifact, SECTION_IMAGEBYTES) + u64_at(record + 16), u64_at(record + 24));
    }
    for (uint64_t i = 0; i < data; i++) {
        const uint8_t *record = section(artifact, SECTION_DATASEGS) + 40 * i;
        if (u32_at(record) != 0) continue;
        if (!u32_at(record + 32)) {
            uint64_t offset = evaluate(instance, record + 8).low;
            uint32_t length = (uint32_t)u64_at(record + 24);
            if (!memory_init(instance->vmctx, u32_at(record + 4), (uint32_t)i, offset, 0, length))
                return TRAP_MEMORY_OUT_OF_BOUNDS;
        }
        instance->data_lengths[i] = 0;
    }
    uint32_t start = u32_at(module + 8);
    if (start != NONE) {
        uint8_t values[VALUE_SIZE] __attribute__((aligned(16))) = {0};
        return (int)call(instance->functions[start], values);
    }
    return 0;
}

/* Commands. */

static struct name read_name(void) {
    static char word[1 << 16];
    static uint8_t bytes[1 << 15];
    struct name name = {bytes, 0};
    if (scanf("%65535s", word) != 1 || word[0] != 'x') die("a name is missing");
    for (const char *digit = word + 1; digit[0] && digit[1]; digit += 2) {
        unsigned byte;
        sscanf(digit, "%2x", &byte);
        bytes[name.length++] = (uint8_t)byte;
    }
    return name;
}

static void print_value(const uint8_t *slot) {
    uint64_t low, high;
    memcpy(&low, slot, 8);
    memcpy(&high, slot + 8, 8);
    printf(" %016llx%016llx", (unsigned long long)high, (unsigned long long)low);
}

static struct instance *read_instance(void) {
    unsigned number;
    if (scanf("%u", &number) != 1 || number >= instance_count) die("an instance is missing");
    return instances[number];
}

static void run_call(void) {
    struct instance *instance = read_instance();
    struct name name = read_name();
    static uint8_t values[1024 * VALUE_SIZE] __attribute__((aligned(16)));
    unsigned results, count;
    if (scanf("%u %u", &results, &count) != 2 || results > 1000 || count > 1000) die("a count is missing");
    for (unsigned i = 0; i < count; i++) {
        unsigned long long high, low;
        if (scanf("%16llx%16llx", &high, &low) != 2) die("a value is missing");
        uint64_t words[2] = {low, high};
        memcpy(values + i * VALUE_SIZE, words, 16);
    }
    const uint8_t *export = instance ? find_export(instance, name) : NULL;
    if (!export || u32_at(export + 8) != KIND_FUNC) {
        puts("error no such function");
        return;
    }
    struct func_ref *function = instance->functions[u32_at(export + 12)];
    unsigned trap = call(function, values);
    if (trap) {
        printf("trap %u\n", trap);
        return;
    }
    printf("ok");
    for (unsigned i = 0; i < results; i++) print_value(values + i * VALUE_SIZE);
    puts("");
}

int main(void) {
    fill_builtins();
    catch_traps();
    artifacts = allocate(linked_count * sizeof *artifacts);
    for (unsigned i = 0; i < linked_count; i++) load(&artifacts[i], linked_modules[i].bytes);
    char command[16];
    while (scanf("%15s", command) == 1) {
        if (!strcmp(command, "instance")) {
            unsigned module;
            if (scanf("%u", &module) != 1 || module >= linked_count) die("a module is missing");
            if (instance_count == sizeof instances / sizeof *instances) die("too many instances");
            instance_count++;
            int trap = instantiate(&artifacts[module]);
            if (trap < 0) puts("error an import is missing");
            else if (trap) printf("trap %d\n", trap);
            else puts("ok");
        } else if (!strcmp(command, "register")) {
            struct instance *instance = read_instance();
            struct name name = read_name();
            if (instance) instance->registered = strndup((const char *)name.bytes, name.length);
            puts("ok");
        } else if (!strcmp(command, "call")) {
            run_call();
        } else if (!strcmp(command, "get")) {
            struct instance *instance = read_instance();
            struct name name = read_name();
            const uint8_t *export = instance ? find_export(instance, name) : NULL;
            if (!export || u32_at(export + 8) != KIND_GLOBAL) {
                puts("error no such global");
            } else {
                printf("ok");
                print_value(instance->globals[u32_at(export + 12)]);
                puts("");
            }
        } else {
            die("an unknown command");
        }
        fflush(stdout);
    }
    return 0;
}
