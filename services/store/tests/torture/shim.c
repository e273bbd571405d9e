// Records every call that changes files below $TORTURE_DIR into $TORTURE_TRACE, in order: writes, names and sizes when the call has
// returned, barriers when they start (B) and when they have returned (b). Preloaded into the process whose disk is to be cut.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int trace = -1;
static char root[PATH_MAX];
static size_t root_length;

static void prepare(void) {
    const char *folder = getenv("TORTURE_DIR"), *file = getenv("TORTURE_TRACE");
    if (!folder || !file) return;
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    trace = syscall(SYS_openat, AT_FDCWD, file, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
}

struct head {
    uint32_t magic, kind;
    uint64_t inode, offset;
    uint32_t first, second;
};

static void record(char kind, uint64_t inode, uint64_t offset, const void *a, size_t first, const void *b, size_t second) {
    struct head head = {0x5ECA11, kind, inode, offset, first, second};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)a, first}, {(void *)b, second}};
    pthread_mutex_lock(&order);
    if (syscall(SYS_writev, trace, parts, 3) != (ssize_t)(sizeof head + first + second)) abort();
    pthread_mutex_unlock(&order);
}

static int inside(const char *path) {
    pthread_once(&once, prepare);
    return trace >= 0 && path && !strncmp(path, root, root_length);
}

// The inode of an open file or folder below the root, else 0; its path goes to `path`.
static uint64_t inode_of(int fd, char path[PATH_MAX], int *folder) {
    pthread_once(&once, prepare);
    if (trace < 0) return 0;
    char link[64];
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, root, root_length) || fstat(fd, &found)) return 0;
    *folder = S_ISDIR(found.st_mode);
    return *folder || S_ISREG(found.st_mode) ? found.st_ino : 0;
}

#define REAL(name) \
    static typeof(name) *real; \
    if (!real) real = (typeof(name) *)dlsym(RTLD_NEXT, #name)

static int opened(int fd, const char *path, int flags, int was_there) {
    struct stat found;
    if (fd < 0 || fstat(fd, &found) || !S_ISREG(found.st_mode)) return fd;
    if ((flags & O_CREAT) && !was_there) record('C', found.st_ino, 0, path, strlen(path), 0, 0);
    else if (flags & O_TRUNC) record('T', found.st_ino, 0, 0, 0, 0, 0);
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = va_arg(rest, int); \
        va_end(rest); \
        struct stat found; \
        if (!inside(path)) return real(path, flags, mode); \
        int was_there = !stat(path, &found); \
        return opened(real(path, flags, mode), path, flags, was_there); \
    }
OPEN(open)
OPEN(open64)

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    int answer = real(path, mode);
    if (!answer && inside(path)) record('M', 0, 0, path, strlen(path), 0, 0);
    return answer;
}

int rename(const char *from, const char *to) {
    REAL(rename);
    int answer = real(from, to);
    if (!answer && inside(from)) record('R', 0, 0, from, strlen(from), to, strlen(to));
    return answer;
}

static int removed(int answer, const char *path) {
    if (!answer && inside(path)) record('U', 0, 0, path, strlen(path), 0, 0);
    return answer;
}

int unlink(const char *path) { REAL(unlink); return removed(real(path), path); }
int rmdir(const char *path) { REAL(rmdir); return removed(real(path), path); }

int unlinkat(int at, const char *path, int flags) {
    REAL(unlinkat);
    char folder[PATH_MAX], full[2 * PATH_MAX];
    int is_folder, known = path[0] != '/' && at != AT_FDCWD && inode_of(at, folder, &is_folder);
    if (known) snprintf(full, sizeof full, "%s/%s", folder, path);
    return removed(real(at, path, flags), known ? full : path);
}

static ssize_t written(int fd, const void *bytes, ssize_t count, off_t offset) {
    char path[PATH_MAX];
    int folder;
    uint64_t inode = count > 0 ? inode_of(fd, path, &folder) : 0;
    if (inode) record('W', inode, offset, bytes, count, 0, 0);
    return count;
}

static off_t before(int fd, ssize_t count) { return count > 0 ? lseek(fd, 0, SEEK_CUR) - count : 0; }

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) { REAL(pwrite64); return written(fd, bytes, real(fd, bytes, count, offset), offset); }
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) { REAL(pwrite); return written(fd, bytes, real(fd, bytes, count, offset), offset); }
ssize_t write(int fd, const void *bytes, size_t count) {
    REAL(write);
    ssize_t answer = real(fd, bytes, count);
    return written(fd, bytes, answer, before(fd, answer));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    ssize_t answer = real(fd, parts, count);
    off_t offset = before(fd, answer);
    ssize_t left = answer;
    for (int part = 0; part < count && left > 0; part++) {
        ssize_t length = (ssize_t)parts[part].iov_len < left ? (ssize_t)parts[part].iov_len : left;
        written(fd, parts[part].iov_base, length, offset);
        offset += length;
        left -= length;
    }
    return answer;
}

// std's copies fall back to plain writes, which are seen.
ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t count, unsigned flags) {
    char path[PATH_MAX];
    int folder;
    REAL(copy_file_range);
    if (inode_of(out, path, &folder)) { errno = EXDEV; return -1; }
    return real(in, in_at, out, out_at, count, flags);
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t count);
ssize_t sendfile64(int out, int in, off64_t *at, size_t count) {
    char path[PATH_MAX];
    int folder;
    REAL(sendfile64);
    if (inode_of(out, path, &folder)) { errno = EINVAL; return -1; }
    return real(out, in, at, count);
}

static int barrier(int (*real)(int), int fd) {
    char path[PATH_MAX];
    int folder = 0;
    uint64_t inode = inode_of(fd, path, &folder);
    size_t length = folder ? strlen(path) : 0;
    if (inode) record('B', inode, folder, path, length, 0, 0);
    int answer = real(fd);
    if (inode && !answer) record('b', inode, folder, path, length, 0, 0);
    return answer;
}

int fsync(int fd) { REAL(fsync); return barrier(real, fd); }
int fdatasync(int fd) { REAL(fdatasync); return barrier(real, fd); }

static int resized(int answer, int fd) {
    char path[PATH_MAX];
    int folder;
    struct stat found;
    uint64_t inode = answer ? 0 : inode_of(fd, path, &folder);
    if (inode && !fstat(fd, &found)) record('T', inode, found.st_size, 0, 0, 0, 0);
    return answer;
}

int ftruncate64(int fd, off64_t size) { REAL(ftruncate64); return resized(real(fd, size), fd); }
int ftruncate(int fd, off_t size) { REAL(ftruncate); return resized(real(fd, size), fd); }
