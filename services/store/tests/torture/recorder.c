// recorder FOLDER TRACE PROGRAM [ARGUMENT…]: runs a program and records every system call of it that changes what is below FOLDER,
// in order, whatever library made the call: writes, names, sizes and attributes when the call has returned, barriers when they start
// (B) and when they have returned (b). A call that the program makes after another has returned is recorded after it.
//
// record: magic:4 kind:4 inode:8 number:8 first:4 second:4, then the bytes of first and second
//   C file made (number: mode, first: path)     M folder made (likewise)      L hard link (from, to)      R rename (from, to)
//   S symbolic link (path, target)              N device or pipe (number: mode, first: path, second: device number)
//   U name removed (path)   W bytes (number: offset)   T resized (number: size)   A mode (number)   X attribute (name, value)   x removed
//   B/b barrier of a file (number 0), a folder (1, first: path) or a file system (2)
//
// ptrace with a seccomp filter: only these calls stop. What would copy inside the kernel is refused, and done by plain writes instead.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif

static int trace;
static char root[PATH_MAX];
static size_t root_length;

static void die(const char *what) {
    fprintf(stderr, "recorder: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void record(char kind, uint64_t inode, uint64_t number, const void *a, size_t first, const void *b, size_t second) {
    struct {
        uint32_t magic, kind;
        uint64_t inode, number;
        uint32_t first, second;
    } head = {0x5ECA11, kind, inode, number, first, second};
    struct iovec parts[3] = {{&head, sizeof head}, {(void *)a, first}, {(void *)b, second}};
    if (writev(trace, parts, 3) != (ssize_t)(sizeof head + first + second)) die("write the recording");
}

static int inside(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

// ---- what a stopped thread's arguments mean

// Bytes of the thread's memory; how many could be read.
static size_t peek(pid_t tid, uint64_t address, void *to, size_t length) {
    struct iovec here = {to, length}, there = {(void *)(uintptr_t)address, length};
    ssize_t read = process_vm_readv(tid, &here, 1, &there, 1, 0);
    return read < 0 ? 0 : read;
}

static void peek_text(pid_t tid, uint64_t address, char text[PATH_MAX]) {
    size_t got = 0;
    while (got < PATH_MAX - 1) {
        // never over the end of a page: the next one may not be there
        size_t part = 4096 - (address + got) % 4096;
        if (part > PATH_MAX - 1 - got) part = PATH_MAX - 1 - got;
        size_t read = peek(tid, address + got, text + got, part);
        if (!read || memchr(text + got, 0, read)) { got += read; break; }
        got += read;
    }
    text[got < PATH_MAX ? got : PATH_MAX - 1] = 0;
}

static int read_link(const char *link, char to[PATH_MAX]) {
    ssize_t length = readlink(link, to, PATH_MAX - 1);
    if (length <= 0) return 0;
    to[length] = 0;
    return 1;
}

static int fd_path(pid_t tid, int fd, char path[PATH_MAX]) {
    char link[64];
    if (fd == AT_FDCWD) snprintf(link, sizeof link, "/proc/%d/cwd", tid);
    else snprintf(link, sizeof link, "/proc/%d/fd/%d", tid, fd);
    return read_link(link, path);
}

// The inode below FOLDER that a descriptor stands for, else 0; its path goes to `path`.
static uint64_t fd_inode(pid_t tid, int fd, char path[PATH_MAX], struct stat *found) {
    char link[64];
    snprintf(link, sizeof link, "/proc/%d/fd/%d", tid, fd);
    if (!read_link(link, path) || !inside(path) || stat(link, found)) return 0;
    return S_ISDIR(found->st_mode) || S_ISREG(found->st_mode) ? found->st_ino : 0;
}

// The absolute path of a name, its folder resolved and its last part not; 0 where that is not below FOLDER.
static int resolve(pid_t tid, int at, uint64_t address, char path[PATH_MAX]) {
    char text[PATH_MAX], full[3 * PATH_MAX], base[PATH_MAX], folder[PATH_MAX];
    peek_text(tid, address, text);
    if (!strncmp(text, "/proc/self/", 11)) {
        snprintf(full, sizeof full, "/proc/%d/%s", tid, text + 11);
        // the descriptor itself: what it stands for
        if (!strchr(full + strlen("/proc/"), '/')) return 0;
        const char *fd = strstr(full, "/fd/");
        if (fd && !strchr(fd + 4, '/')) return read_link(full, path) && inside(path);
    } else if (text[0] == '/') {
        snprintf(full, sizeof full, "%s", text);
    } else {
        if (!fd_path(tid, at, base)) return 0;
        snprintf(full, sizeof full, text[0] ? "%s/%s" : "%s", base, text);
    }
    char *name = strrchr(full, '/');
    if (!name) return 0;
    *name++ = 0;
    if (!realpath(full[0] ? full : "/", folder)) return 0;
    if (!*name || !strcmp(name, ".")) snprintf(path, PATH_MAX, "%s", folder);
    else if ((size_t)snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX) return 0;
    return inside(path);
}

// ---- a call, from its start to its end

struct call {
    pid_t tid;
    uint64_t nr, args[6];
    char first[PATH_MAX], second[PATH_MAX];
    int known, was_there, open;
    uint64_t inode;
    int folder;
};

static struct call calls[1024];

static struct call *call_of(pid_t tid) {
    struct call *free = 0;
    for (size_t at = 0; at < sizeof calls / sizeof *calls; at++) {
        if (calls[at].open && calls[at].tid == tid) return &calls[at];
        if (!calls[at].open && !free) free = &calls[at];
    }
    if (!free) { errno = ENOSPC; die("too many threads"); }
    free->tid = tid;
    return free;
}

static void barrier(struct call *call, char kind) {
    record(kind, call->inode, call->folder, call->first, call->folder == 1 ? strlen(call->first) : 0, 0, 0);
}

static void begin(struct call *call) {
    pid_t tid = call->tid;
    uint64_t *arg = call->args;
    struct stat found;
    call->known = 0;
    switch (call->nr) {
#ifdef SYS_open
    case SYS_open: call->known = resolve(tid, AT_FDCWD, arg[0], call->first); break;
    case SYS_creat: call->known = resolve(tid, AT_FDCWD, arg[0], call->first); break;
    case SYS_mkdir: case SYS_rmdir: case SYS_unlink: case SYS_mknod: case SYS_chmod:
        call->known = resolve(tid, AT_FDCWD, arg[0], call->first); break;
    case SYS_rename: case SYS_link:
        call->known = resolve(tid, AT_FDCWD, arg[0], call->first) & resolve(tid, AT_FDCWD, arg[1], call->second); break;
    case SYS_symlink: peek_text(tid, arg[0], call->second); call->known = resolve(tid, AT_FDCWD, arg[1], call->first); break;
#endif
    case SYS_openat: case SYS_openat2: case SYS_mkdirat: case SYS_unlinkat: case SYS_mknodat: case SYS_fchmodat: case SYS_fchmodat2:
        call->known = resolve(tid, arg[0], arg[1], call->first); break;
#ifdef SYS_renameat
    case SYS_renameat:
#endif
    case SYS_renameat2: case SYS_linkat:
        call->known = resolve(tid, arg[0], arg[1], call->first) & resolve(tid, arg[2], arg[3], call->second); break;
    case SYS_symlinkat: peek_text(tid, arg[0], call->second); call->known = resolve(tid, arg[1], arg[2], call->first); break;
    case SYS_truncate: case SYS_setxattr: case SYS_lsetxattr: case SYS_removexattr: case SYS_lremovexattr:
        call->known = resolve(tid, AT_FDCWD, arg[0], call->first); break;
    case SYS_fsync: case SYS_fdatasync:
        call->inode = fd_inode(tid, arg[0], call->first, &found);
        call->known = call->inode != 0;
        call->folder = call->known && S_ISDIR(found.st_mode);
        if (call->known) barrier(call, 'B');
        return;
    case SYS_syncfs: case SYS_sync:
        call->known = 1, call->inode = 0, call->folder = 2;
        barrier(call, 'B');
        return;
    default: call->known = 1; // by descriptor: looked at when it has returned
    }
    if (call->known && (call->nr == SYS_openat || call->nr == SYS_openat2
#ifdef SYS_open
        || call->nr == SYS_open || call->nr == SYS_creat
#endif
        )) call->was_there = !lstat(call->first, &found);
}

static void opened(struct call *call, int fd, uint64_t flags) {
    char path[PATH_MAX];
    struct stat found;
    uint64_t inode = fd_inode(call->tid, fd, path, &found);
    if (!inode || !S_ISREG(found.st_mode)) return;
    if ((flags & O_CREAT) && !call->was_there) record('C', inode, found.st_mode & 07777, path, strlen(path), 0, 0);
    else if (flags & O_TRUNC) record('T', inode, 0, 0, 0, 0, 0);
}

static void written(struct call *call, int fd, uint64_t address, int64_t length, int64_t offset) {
    static char bytes[64 << 10];
    char path[PATH_MAX];
    struct stat found;
    uint64_t inode = length > 0 ? fd_inode(call->tid, fd, path, &found) : 0;
    for (int64_t at = 0; inode && at < length;) {
        size_t part = length - at < (int64_t)sizeof bytes ? (size_t)(length - at) : sizeof bytes;
        if (peek(call->tid, address + at, bytes, part) != part) die("read what was written");
        record('W', inode, offset + at, bytes, part, 0, 0);
        at += part;
    }
}

// Where the next plain write of a descriptor goes.
static int64_t position(pid_t tid, int fd) {
    char name[64];
    long long at = 0;
    snprintf(name, sizeof name, "/proc/%d/fdinfo/%d", tid, fd);
    FILE *info = fopen(name, "re");
    if (!info || fscanf(info, "pos: %lld", &at) != 1) die("read the position of a descriptor");
    fclose(info);
    return at;
}

static void vector(struct call *call, int64_t length, int64_t offset) {
    struct iovec parts[64];
    size_t count = call->args[2] < 64 ? call->args[2] : 64;
    peek(call->tid, call->args[1], parts, count * sizeof *parts);
    for (size_t part = 0; part < count && length > 0; part++) {
        int64_t size = (int64_t)parts[part].iov_len < length ? (int64_t)parts[part].iov_len : length;
        written(call, call->args[0], (uintptr_t)parts[part].iov_base, size, offset);
        offset += size;
        length -= size;
    }
}

static void attribute(struct call *call, uint64_t inode, int removed) {
    char name[256] = {0}, value[4096];
    size_t size = removed ? 0 : call->args[3];
    char text[PATH_MAX];
    peek_text(call->tid, call->args[1], text);
    snprintf(name, sizeof name, "%.255s", text);
    if (size > sizeof value) { errno = E2BIG; die("an attribute"); }
    peek(call->tid, call->args[2], value, size);
    record(removed ? 'x' : 'X', inode, 0, name, strlen(name), value, size);
}

static void named(char kind, const char *path, const void *second, size_t length) {
    struct stat found;
    if (lstat(path, &found)) return; // gone again already
    uint32_t device = found.st_rdev;
    if (kind == 'N') second = &device, length = sizeof device;
    record(kind, found.st_ino, found.st_mode, path, strlen(path), second, length);
}

static void mode_of(const char *path) {
    struct stat found;
    if (!lstat(path, &found)) record('A', found.st_ino, found.st_mode & 07777, 0, 0, 0, 0);
}

static void end(struct call *call, int64_t answer) {
    char path[PATH_MAX];
    struct stat found;
    uint64_t inode, *arg = call->args;
    if (answer < 0 || !call->known) return;
    switch (call->nr) {
#ifdef SYS_open
    case SYS_open: opened(call, answer, arg[1]); break;
    case SYS_creat: opened(call, answer, O_CREAT | O_TRUNC); break;
    case SYS_mkdir: named('M', call->first, 0, 0); break;
    case SYS_mknod: named('N', call->first, 0, 0); break;
    case SYS_rmdir: case SYS_unlink: record('U', 0, 0, call->first, strlen(call->first), 0, 0); break;
    case SYS_rename: record('R', 0, 0, call->first, strlen(call->first), call->second, strlen(call->second)); break;
    case SYS_link: record('L', 0, 0, call->first, strlen(call->first), call->second, strlen(call->second)); break;
    case SYS_symlink: named('S', call->first, call->second, strlen(call->second)); break;
    case SYS_chmod: mode_of(call->first); break;
#endif
    case SYS_openat: opened(call, answer, arg[2]); break;
    case SYS_openat2: {
        struct open_how { uint64_t flags, mode, resolve; } how = {0};
        peek(call->tid, arg[2], &how, sizeof how);
        opened(call, answer, how.flags);
        break;
    }
    case SYS_mkdirat: named('M', call->first, 0, 0); break;
    case SYS_mknodat: named('N', call->first, 0, 0); break;
    case SYS_unlinkat: record('U', 0, 0, call->first, strlen(call->first), 0, 0); break;
#ifdef SYS_renameat
    case SYS_renameat:
#endif
    case SYS_renameat2:
        if (call->nr == SYS_renameat2 && (arg[4] & RENAME_EXCHANGE)) { errno = ENOTSUP; die("an exchange of names"); }
        record('R', 0, 0, call->first, strlen(call->first), call->second, strlen(call->second));
        break;
    case SYS_linkat: record('L', 0, 0, call->first, strlen(call->first), call->second, strlen(call->second)); break;
    case SYS_symlinkat: named('S', call->first, call->second, strlen(call->second)); break;
    case SYS_fchmodat: case SYS_fchmodat2: mode_of(call->first); break;
    case SYS_fchmod:
        if ((inode = fd_inode(call->tid, arg[0], path, &found))) record('A', inode, found.st_mode & 07777, 0, 0, 0, 0);
        break;
    case SYS_write: written(call, arg[0], arg[1], answer, position(call->tid, arg[0]) - answer); break;
    case SYS_pwrite64: written(call, arg[0], arg[1], answer, arg[3]); break;
    case SYS_writev: vector(call, answer, position(call->tid, arg[0]) - answer); break;
    case SYS_pwritev: case SYS_pwritev2: vector(call, answer, arg[3]); break;
    case SYS_ftruncate:
        if ((inode = fd_inode(call->tid, arg[0], path, &found))) record('T', inode, arg[1], 0, 0, 0, 0);
        break;
    case SYS_truncate:
        if (!stat(call->first, &found)) record('T', found.st_ino, arg[1], 0, 0, 0, 0);
        break;
    case SYS_setxattr: case SYS_lsetxattr: case SYS_removexattr: case SYS_lremovexattr:
        if (!lstat(call->first, &found)) attribute(call, found.st_ino, call->nr == SYS_removexattr || call->nr == SYS_lremovexattr);
        break;
    case SYS_fsetxattr: case SYS_fremovexattr:
        if ((inode = fd_inode(call->tid, arg[0], path, &found))) attribute(call, inode, call->nr == SYS_fremovexattr);
        break;
    case SYS_fsync: case SYS_fdatasync: case SYS_syncfs: case SYS_sync: barrier(call, 'b'); break;
    }
}

// ---- the traced program

static const int TRACED[] = {
#ifdef SYS_open
    SYS_open, SYS_creat, SYS_mkdir, SYS_rmdir, SYS_unlink, SYS_mknod, SYS_chmod, SYS_rename, SYS_link, SYS_symlink,
#endif
#ifdef SYS_renameat
    SYS_renameat,
#endif
    SYS_openat, SYS_openat2, SYS_mkdirat, SYS_mknodat, SYS_unlinkat, SYS_renameat2, SYS_linkat, SYS_symlinkat, SYS_fchmodat,
    SYS_fchmodat2, SYS_fchmod, SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_pwritev2, SYS_ftruncate, SYS_truncate,
    SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr,
    SYS_fsync, SYS_fdatasync, SYS_syncfs, SYS_sync,
};
static const struct { int nr, answer; } REFUSED[] = {
    {SYS_copy_file_range, EXDEV}, {SYS_sendfile, EINVAL}, {SYS_splice, EINVAL}, {SYS_fallocate, EOPNOTSUPP},
};

static void run(char **command) {
    struct sock_filter code[2 * sizeof TRACED / sizeof *TRACED + 32];
    unsigned short length = 0;
#define ADD(...) code[length++] = (struct sock_filter)__VA_ARGS__
    ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)));
    for (size_t at = 0; at < sizeof TRACED / sizeof *TRACED; at++) {
        ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TRACED[at], 0, 1));
        ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
    }
    for (size_t at = 0; at < sizeof REFUSED / sizeof *REFUSED; at++) {
        ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, REFUSED[at].nr, 0, 1));
        ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | REFUSED[at].answer));
    }
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3));
    ADD(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])));
    ADD(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FICLONE, 0, 1));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP));
    ADD(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    struct sock_fprog program = {length, code};
    if (ptrace(PTRACE_TRACEME, 0, 0, 0)) die("be traced");
    raise(SIGSTOP);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) die("filter calls");
    execvp(command[0], command);
    die(command[0]);
}

static void look(pid_t tid, int status) {
    struct __ptrace_syscall_info info;
    int event = status >> 16;
    enum __ptrace_request how = PTRACE_CONT;
    int signal = 0;
    if (event == PTRACE_EVENT_SECCOMP) {
        if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0 && info.op == PTRACE_SYSCALL_INFO_SECCOMP) {
            struct call *call = call_of(tid);
            call->nr = info.seccomp.nr;
            for (int at = 0; at < 6; at++) call->args[at] = info.seccomp.args[at];
            begin(call);
            call->open = 1;
            how = PTRACE_SYSCALL;
        }
    } else if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
        struct call *call = call_of(tid);
        if (call->open && ptrace(PTRACE_GET_SYSCALL_INFO, tid, sizeof info, &info) > 0 && info.op == PTRACE_SYSCALL_INFO_EXIT) {
            call->open = 0;
            end(call, info.exit.rval);
        }
    } else if (!event && WSTOPSIG(status) != SIGSTOP && WSTOPSIG(status) != SIGTRAP) {
        signal = WSTOPSIG(status);
    }
    ptrace(how, tid, 0, signal);
}

int main(int count, char **words) {
    if (count < 4) {
        fprintf(stderr, "usage: recorder FOLDER TRACE PROGRAM [ARGUMENT…]\n");
        return 2;
    }
    if (!realpath(words[1], root)) die(words[1]);
    root_length = strlen(root);
    trace = open(words[2], O_CREAT | O_WRONLY | O_TRUNC | O_APPEND | O_CLOEXEC, 0644);
    if (trace < 0) die(words[2]);
    pid_t child = fork();
    if (child < 0) die("fork");
    if (!child) run(words + 3);
    int status;
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status)) die("wait for the program");
    long options = PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
                   PTRACE_O_TRACEEXEC | PTRACE_O_TRACESYSGOOD;
    if (ptrace(PTRACE_SETOPTIONS, child, 0, options) || ptrace(PTRACE_CONT, child, 0, 0)) die("trace");
    for (;;) {
        pid_t tid = waitpid(-1, &status, __WALL);
        if (tid < 0 && errno == EINTR) continue;
        if (tid < 0) die("wait");
        if (WIFSTOPPED(status)) look(tid, status);
        else if (tid == child) return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
}
