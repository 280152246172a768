/* cpu.c - what this machine is: instruction sets, cores, quota, caches, pages. Nothing is kept: every call asks again. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "cpu.h"
#include <ctype.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "common.h"
#include "lanewise.h"

#if defined(__x86_64__)
#include <cpuid.h>

typedef struct { unsigned a, b, c, d; } leaf;

static leaf cpuid(unsigned number, unsigned sub) {
    leaf l = {0, 0, 0, 0};
    __get_cpuid_count(number, sub, &l.a, &l.b, &l.c, &l.d);
    return l;
}
static int bit(unsigned word, int n) { return word >> n & 1; }

/* XCR0: which registers the operating system saves. By opcode, so that no compiler flag is needed. */
static unsigned saved_state(void) {
    unsigned low, high;
    if (!bit(cpuid(1, 0).c, 27)) return 0;                       /* OSXSAVE */
    __asm__ volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* Tiles are 8 KiB of state for each thread, so Linux (5.16) wants to be asked, once per process; again does no harm. */
static int tiles_permitted(void) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
#else
    return 0;
#endif
}

const char *lw_cpu_missing(int needed) {
    if (!needed) return NULL;
    const leaf l1 = cpuid(1, 0), l7 = cpuid(7, 0), l71 = cpuid(7, 1);
    const unsigned saved = saved_state();
    const struct { int set, there; const char *name; } want[] = {
        {LW_CPU_AVX2, (saved & 0x06) == 0x06, "ymm registers enabled by the operating system"},
        {LW_CPU_AVX2, bit(l7.b, 5), "AVX2"},
        {LW_CPU_AVX2, bit(l1.c, 12), "FMA"},
        {LW_CPU_AVX2, bit(l1.c, 29), "F16C"},
        {LW_CPU_AVX512, bit(l7.b, 16), "AVX-512 F"},
        {LW_CPU_AVX512, bit(l7.b, 30), "AVX-512 BW"},
        {LW_CPU_AVX512, bit(l7.b, 31), "AVX-512 VL"},
        {LW_CPU_AVX512, bit(l7.b, 17), "AVX-512 DQ"},
        {LW_CPU_AVX512, (saved & 0xe6) == 0xe6, "zmm registers enabled by the operating system"},
        {LW_CPU_AVX512_VNNI, bit(l7.c, 11), "AVX-512 VNNI"},
        {LW_CPU_AVX512_BF16, bit(l71.a, 5), "AVX-512 BF16"},
        {LW_CPU_AVX_VNNI, bit(l71.a, 4), "AVX-VNNI"},
        {LW_CPU_AMX, bit(l7.d, 24), "AMX-TILE"},
        {LW_CPU_AMX, bit(l7.d, 25), "AMX-INT8"},
        {LW_CPU_AMX, bit(l7.d, 22), "AMX-BF16"},
        {LW_CPU_AMX, (saved >> 17 & 3) == 3, "tile registers enabled by the operating system"},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        if ((needed & want[i].set) && !want[i].there) return want[i].name;
    return needed & LW_CPU_AMX && !tiles_permitted() ? "the operating system's permission to use tile registers" : NULL;
}

static void read_brand(char *out, size_t size) {
    unsigned words[13] = {0};
    if (cpuid(0x80000000u, 0).a < 0x80000004u) return;
    for (unsigned i = 0; i < 3; i++) {
        leaf l = cpuid(0x80000002u + i, 0);
        memcpy(words + 4 * i, &l, sizeof l);
    }
    const char *p = (const char *)words;
    while (isspace((unsigned char)*p)) p++;
    snprintf(out, size, "%s", p);
    for (size_t n = strlen(out); n && isspace((unsigned char)out[n - 1]); n--) out[n - 1] = 0;
}
static int made_by_amd(void) { return cpuid(0, 0).b == 0x68747541u; }     /* "Auth"enticAMD */
int lw_cpu_slow_bf16(void) {
    enum { COOPER_LAKE = 0x55 };
    const unsigned signature = cpuid(1, 0).a, model = (signature >> 4 & 0x0f) | (signature >> 12 & 0xf0);
    return cpuid(0, 0).b == 0x756e6547u && model != COOPER_LAKE;           /* "Genu"ineIntel */
}
#else
static int made_by_amd(void) { return 0; }
int lw_cpu_slow_bf16(void) { return 0; }
const char *lw_cpu_missing(int needed) { return needed ? "an x86-64 CPU" : NULL; }
static void read_brand(char *out, size_t size) { snprintf(out, size, "unknown"); }
#endif

/* The first line of a file without its end; 0 if it cannot be read. */
static int read_line(const char *path, char *out, size_t size) {
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    const int ok = fgets(out, (int)size, f) != NULL;
    fclose(f);
    if (ok) out[strcspn(out, "\n")] = 0;
    return ok;
}

/* Cores among the CPUs that are online: each counted at its first hyper-thread. */
static int physical_cores(int logical) {
    char path[96], text[64];
    int cores = 0, seen = 0;
    for (int cpu = 0; cpu < 4096 && seen < logical; cpu++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        if (!read_line(path, text, sizeof text)) continue;        /* offline, or no such CPU */
        seen++;
        cores += atoi(text) == cpu;
    }
    return cores > 0 ? cores : logical;
}

static int affinity_count(int logical) {
    for (int cpus = 1024; cpus <= 1 << 16; cpus *= 4) {            /* the kernel's mask may be larger than cpu_set_t */
        cpu_set_t *set = CPU_ALLOC((size_t)cpus);
        const size_t bytes = CPU_ALLOC_SIZE((size_t)cpus);
        if (!set) break;
        const int got = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (got > 0) return got;
    }
    return logical;
}

/* The least quota of a group and its parents, in CPUs; 0 = none. v2: "max 100000" or "150000 100000". */
static double quota_of(const char *root, const char *group, int v2) {
    char at[1024], path[1200], text[64];
    double least = 0;
    snprintf(at, sizeof at, "%s", group);
    for (;;) {
        double limit = -1, period = 100000;
        snprintf(path, sizeof path, "%s%s/%s", root, at, v2 ? "cpu.max" : "cpu.cfs_quota_us");
        if (read_line(path, text, sizeof text)) {
            if (v2) {
                if (sscanf(text, "%lf %lf", &limit, &period) < 1) limit = -1;
            } else {
                limit = atof(text);
                snprintf(path, sizeof path, "%s%s/cpu.cfs_period_us", root, at);
                if (read_line(path, text, sizeof text)) period = atof(text);
            }
        }
        if (limit > 0 && period > 0 && (least == 0 || limit / period < least)) least = limit / period;
        char *slash = strrchr(at, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

/* /proc/self/cgroup holds "id:controllers:/group" a line; v2's id is 0 and it names no controller. */
static double cgroup_quota(void) {
    char line[1024];
    double least = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        names++;
        if (strcmp(group, "/") == 0) group = "";
        double q = 0;
        if (!*names) q = quota_of("/sys/fs/cgroup", group, 1);
        else if (strcmp(names, "cpu") == 0 || strstr(names, "cpu,") == names || strstr(names, ",cpu"))
            q = quota_of("/sys/fs/cgroup/cpu", group, 0);
        if (q > 0 && (least == 0 || q < least)) least = q;
    }
    if (f) fclose(f);
    return least;
}

static void read_caches(lw_machine *m) {
    char path[96], level[16], type[16], size[32];
    for (int i = 0; i < 8; i++) {
        const char *dir = "/sys/devices/system/cpu/cpu0/cache/index";
        snprintf(path, sizeof path, "%s%d/level", dir, i);
        if (!read_line(path, level, sizeof level)) break;
        snprintf(path, sizeof path, "%s%d/type", dir, i);
        if (!read_line(path, type, sizeof type) || type[0] == 'I') continue;
        snprintf(path, sizeof path, "%s%d/size", dir, i);
        if (!read_line(path, size, sizeof size)) continue;
        char *unit;
        size_t bytes = strtoul(size, &unit, 10);
        bytes *= *unit == 'M' ? 1 << 20 : *unit == 'K' ? 1 << 10 : 1;
        *(level[0] == '1' ? &m->l1d : level[0] == '2' ? &m->l2 : &m->l3) = bytes;
    }
}

void lw_machine_query(lw_machine *out) {
    memset(out, 0, sizeof *out);
    read_brand(out->brand, sizeof out->brand);
    out->amd = made_by_amd();
    out->logical = (int)lw_max(1, sysconf(_SC_NPROCESSORS_ONLN));
    out->physical = physical_cores(out->logical);
    out->affinity = affinity_count(out->logical);
    out->quota = cgroup_quota();
    out->threads = (int)lw_min(out->physical, out->affinity);
    if (out->quota > 0 && out->quota < out->threads) out->threads = (int)lw_max(1, (int64_t)out->quota);
    read_caches(out);
    char text[64];
    if (read_line("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text))
        out->huge_pages = strstr(text, "[always]") ? 2 : strstr(text, "[madvise]") ? 1 : 0;
}
