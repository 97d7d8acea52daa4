/* A preload library that makes the k-th file operation of one kind fail with a given error, counted
 * over a process and all its children:
 *
 *   LD_PRELOAD=fault.so FAULT_KIND=write FAULT_AT=7 FAULT_ERRNO=28 FAULT_COUNTER=FILE program ...
 *
 * FILE holds the counter (eight zero bytes at first). With FAULT_AT=0 nothing fails and the counter
 * says afterwards how many operations of the kind there were. FAULT_ONLY, when not empty, counts
 * only operations on paths that contain this text; a file that was opened by such a path belongs to
 * it.
 *
 * Kinds: open read write fsync rename mkdir close truncate malloc. They are intercepted where
 * programs and the C++ library call the C library. malloc counts from main() on: what the libraries
 * need to begin is not counted. Streams of the C library write inside of it, so fopen, fwrite,
 * fflush and fclose are intercepted themselves. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *kind, *only;
static long at;
static int number;
static _Atomic long* counter;

__attribute__((constructor)) static void start(void) {
  const char* file = getenv("FAULT_COUNTER");
  const char* word = getenv("FAULT_KIND");
  if (file == NULL || word == NULL) return;
  const int fd = (int)syscall(SYS_openat, AT_FDCWD, file, O_RDWR);
  if (fd < 0) return;
  void* shared = mmap(NULL, sizeof *counter, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  syscall(SYS_close, fd);
  if (shared == MAP_FAILED) return;
  at = atol(getenv("FAULT_AT") ? getenv("FAULT_AT") : "0");
  number = atoi(getenv("FAULT_ERRNO") ? getenv("FAULT_ERRNO") : "5");
  only = getenv("FAULT_ONLY");
  if (only != NULL && *only == 0) only = NULL;
  kind = word;
  counter = shared;
}

/* Does this operation fail? path may be NULL. */
static int fails(const char* what, const char* path) {
  if (counter == NULL || strcmp(kind, what) != 0) return 0;
  if (only != NULL && (path == NULL || strstr(path, only) == NULL)) return 0;
  if (atomic_fetch_add(counter, 1) + 1 != at) return 0;
  errno = number;
  return 1;
}

/* The path behind a descriptor, for FAULT_ONLY. */
static const char* path_of(int fd, char* buffer, size_t size) {
  if (only == NULL) return NULL;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, buffer, size - 1);
  if (n < 0) return NULL;
  buffer[n] = 0;
  return buffer;
}
static int fails_fd(const char* what, int fd) {
  char buffer[4096];
  if (counter == NULL || strcmp(kind, what) != 0) return 0;
  return fails(what, path_of(fd, buffer, sizeof buffer));
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int mode_of(int flags, va_list list) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(list, int) : 0;
}
#define OPEN(name)                                                   \
  int name(const char* path, int flags, ...) {                       \
    va_list list;                                                    \
    va_start(list, flags);                                           \
    const int mode = mode_of(flags, list);                           \
    va_end(list);                                                    \
    return fails("open", path) ? -1 : REAL(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)
#define OPENAT(name)                                                         \
  int name(int folder, const char* path, int flags, ...) {                   \
    va_list list;                                                            \
    va_start(list, flags);                                                   \
    const int mode = mode_of(flags, list);                                   \
    va_end(list);                                                            \
    return fails("open", path) ? -1 : REAL(name)(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)
FILE* fopen(const char* path, const char* mode) {
  return fails("open", path) ? NULL : REAL(fopen)(path, mode);
}
FILE* fopen64(const char* path, const char* mode) {
  return fails("open", path) ? NULL : REAL(fopen64)(path, mode);
}

ssize_t read(int fd, void* data, size_t size) {
  return fails_fd("read", fd) ? -1 : REAL(read)(fd, data, size);
}
ssize_t write(int fd, const void* data, size_t size) {
  return fails_fd("write", fd) ? -1 : REAL(write)(fd, data, size);
}
ssize_t writev(int fd, const struct iovec* parts, int count) {
  return fails_fd("write", fd) ? -1 : REAL(writev)(fd, parts, count);
}
size_t fwrite(const void* data, size_t size, size_t count, FILE* file) {
  if (file != stderr && fails_fd("write", fileno(file))) {
    file->_flags |= 0x20; /* _IO_ERR_SEEN: what ferror() reports */
    return 0;
  }
  return REAL(fwrite)(data, size, count, file);
}
int fflush(FILE* file) {
  if (file != NULL && file != stderr && fails_fd("write", fileno(file))) return EOF;
  return REAL(fflush)(file);
}
int fsync(int fd) { return fails_fd("fsync", fd) ? -1 : REAL(fsync)(fd); }
int fdatasync(int fd) { return fails_fd("fsync", fd) ? -1 : REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) {
  return fails_fd("truncate", fd) ? -1 : REAL(ftruncate)(fd, size);
}
int rename(const char* from, const char* to) {
  return fails("rename", from) ? -1 : REAL(rename)(from, to);
}
int renameat2(int a, const char* from, int b, const char* to, unsigned flags) {
  return fails("rename", from) ? -1 : REAL(renameat2)(a, from, b, to, flags);
}
int mkdir(const char* path, mode_t mode) {
  return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}
/* Memory: NULL as if there were none. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void*, size_t),
    *__libc_memalign(size_t, size_t);
static int in_main;
static int no_memory(void) { return in_main && fails("malloc", NULL); }
void* malloc(size_t size) { return no_memory() ? NULL : __libc_malloc(size); }
void* calloc(size_t n, size_t size) { return no_memory() ? NULL : __libc_calloc(n, size); }
void* realloc(void* p, size_t size) { return no_memory() ? NULL : __libc_realloc(p, size); }
void* memalign(size_t to, size_t size) { return no_memory() ? NULL : __libc_memalign(to, size); }
void* aligned_alloc(size_t to, size_t size) { return memalign(to, size); }
int posix_memalign(void** p, size_t to, size_t size) {
  *p = memalign(to, size);
  return *p == NULL ? ENOMEM : 0;
}
static int (*real_main)(int, char**, char**);
static int counted_main(int argc, char** argv, char** environment) {
  in_main = 1;
  const int code = real_main(argc, argv, environment);
  in_main = 0;
  return code;
}
int __libc_start_main(int (*start)(int, char**, char**), int argc, char** argv, void (*init)(void),
                      void (*fini)(void), void (*loader)(void), void* stack) {
  real_main = start;
  return REAL(__libc_start_main)(counted_main, argc, argv, init, fini, loader, stack);
}

/* close fails as the kernel does: the descriptor is gone. */
int close(int fd) {
  const int failing = fails_fd("close", fd);
  const int result = REAL(close)(fd);
  if (!failing) return result;
  errno = number;
  return -1;
}
