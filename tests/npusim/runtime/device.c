/* The simulated CANN's devices and memory: device memory is host memory, poisoned when it is handed out. */
#include "npusim.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_DEVICES 64
#define ALIGNMENT 512
#define POISON 0xCD
#define POISONED_BYTES ((size_t)64 << 20) /* poisoning more would cost more time than it catches mistakes */
#define HOST_TO_DEVICE 1
#define DEVICE_TO_HOST 2

typedef struct {
  size_t size;
  int device;
} Header; /* in the ALIGNMENT bytes before each block */

static __thread int current = -1;
static __thread void *context = NULL;
static size_t used[MAX_DEVICES];
static char message[512] = "npusim: no error";

static const char *knob(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value && *value ? value : otherwise;
}

static int devices(void) {
  int count = atoi(knob("NPUSIM_DEVICES", "2"));
  return count > MAX_DEVICES ? MAX_DEVICES : count;
}

static size_t capacity(void) { return (size_t)atol(knob("NPUSIM_MEM_MB", "4096")) << 20; }

int npusim_current_device(void) { return current; }

static int device_or_first(void) { return current < 0 ? 0 : current; }

void npusim_trace(const char *format, ...) {
  const char *target = knob("NPUSIM_TRACE", "0");
  if (!strcmp(target, "0")) return;
  FILE *file = strcmp(target, "1") ? fopen(target, "a") : stderr;
  if (!file) return;
  va_list arguments;
  va_start(arguments, format);
  vfprintf(file, format, arguments);
  va_end(arguments);
  fputc('\n', file);
  if (file != stderr) fclose(file);
}

void npusim_set_error(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
}

const char *aclGetRecentErrMsg(void) { return message; }
const char *aclrtGetSocName(void) { return knob("NPUSIM_SOC", "Ascend910B2"); }

void aclAppLog(int level, const char *function, const char *file, uint32_t line, const char *format, ...) {
  if (!getenv("NPUSIM_LOG")) return;
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "npusim log %d %s:%u ", level, function, line);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
}

aclError aclInit(const char *configuration) { return NPUSIM_OK; }
aclError aclFinalize(void) { return NPUSIM_OK; }

aclError aclrtGetDeviceCount(uint32_t *count) {
  *count = devices();
  return *count ? NPUSIM_OK : NPUSIM_NO_DEVICE;
}

aclError aclrtSetDevice(int32_t device) {
  if (device < 0 || device >= devices()) {
    npusim_set_error("npusim: device %d does not exist, there are %d", device, devices());
    return NPUSIM_INVALID;
  }
  current = device;
  context = (void *)(intptr_t)(0x1000 + device);
  return NPUSIM_OK;
}

aclError aclrtGetDevice(int32_t *device) {
  if (current < 0) return NPUSIM_NO_CONTEXT;
  *device = current;
  return NPUSIM_OK;
}

aclError aclrtResetDevice(int32_t device) { return NPUSIM_OK; }

aclError aclrtGetCurrentContext(void **out) {
  if (!context) return NPUSIM_NO_CONTEXT;
  *out = context;
  return NPUSIM_OK;
}

aclError aclrtSetCurrentContext(void *wanted) {
  context = wanted;
  if (wanted) current = (int)((intptr_t)wanted - 0x1000);
  return NPUSIM_OK;
}

aclError aclrtGetPrimaryCtxState(int32_t device, uint32_t *flags, int32_t *active) {
  if (active) *active = 1;
  return NPUSIM_OK;
}

aclError aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t peer) {
  *can = 1;
  return NPUSIM_OK;
}

aclError aclrtDeviceEnablePeerAccess(int32_t peer, uint32_t flags) { return NPUSIM_OK; }

aclError aclrtDeviceGetBareTgid(int32_t *process) {
  *process = getpid();
  return NPUSIM_OK;
}

/* 0 asks for cube cores, 1 for vector cores */
aclError aclGetDeviceCapability(uint32_t device, int what, int64_t *value) {
  *value = what == 0 ? 24 : 48;
  return NPUSIM_OK;
}

aclError aclGetCannAttribute(int what, int32_t *value) {
  *value = 1;
  return NPUSIM_OK;
}

aclError aclrtGetMemInfo(int what, size_t *free_bytes, size_t *total) {
  *total = capacity();
  *free_bytes = *total - used[device_or_first()];
  return NPUSIM_OK;
}

aclError aclrtMalloc(void **out, size_t size, int policy) {
  int device = device_or_first();
  char *block;
  if (used[device] + size > capacity()) {
    npusim_set_error("npusim: %zu bytes do not fit beside the %zu in use of %zu", size, used[device], capacity());
    return NPUSIM_OUT_OF_MEMORY;
  }
  if (posix_memalign((void **)&block, ALIGNMENT, size + ALIGNMENT)) return NPUSIM_OUT_OF_MEMORY;
  *(Header *)block = (Header){size, device};
  used[device] += size;
  *out = block + ALIGNMENT;
  memset(*out, POISON, size < POISONED_BYTES ? size : POISONED_BYTES);
  return NPUSIM_OK;
}

aclError aclrtMallocAlign32(void **out, size_t size, int policy) { return aclrtMalloc(out, size, policy); }

aclError aclrtFree(void *pointer) {
  if (!pointer) return NPUSIM_OK;
  Header *header = (Header *)((char *)pointer - ALIGNMENT);
  used[header->device] -= header->size;
  free(header);
  return NPUSIM_OK;
}

/* host memory of which a device may read and write while nobody waits */
typedef struct Pinned {
  struct Pinned *next;
  size_t size;
} Pinned; /* in the ALIGNMENT bytes before each block */

static Pinned *pinned;
static pthread_mutex_t pinning = PTHREAD_MUTEX_INITIALIZER;

aclError aclrtMallocHost(void **out, size_t size) {
  char *block;
  if (posix_memalign((void **)&block, ALIGNMENT, size + ALIGNMENT)) return NPUSIM_OUT_OF_MEMORY;
  pthread_mutex_lock(&pinning);
  *(Pinned *)block = (Pinned){pinned, size};
  pinned = (Pinned *)block;
  pthread_mutex_unlock(&pinning);
  *out = block + ALIGNMENT;
  return NPUSIM_OK;
}

aclError aclrtFreeHost(void *pointer) {
  Pinned *header = (Pinned *)((char *)pointer - ALIGNMENT), **link = &pinned;
  pthread_mutex_lock(&pinning);
  while (*link != header) link = &(*link)->next;
  *link = header->next;
  pthread_mutex_unlock(&pinning);
  free(header);
  return NPUSIM_OK;
}

static int is_pinned(const void *pointer) {
  int found = 0;
  pthread_mutex_lock(&pinning);
  for (Pinned *header = pinned; header; header = header->next) {
    size_t offset = (const char *)pointer - ((char *)header + ALIGNMENT);
    found |= offset < header->size;
  }
  pthread_mutex_unlock(&pinning);
  return found;
}

typedef struct {
  void *to;
  const void *from;
  size_t size;
  int32_t value; /* what memory is set to where it is copied from nowhere */
} Transfer;

static aclError transfer(void *data) {
  Transfer *asked = data;
  if (asked->from) {
    memmove(asked->to, asked->from, asked->size);
  } else {
    memset(asked->to, asked->value, asked->size);
  }
  return NPUSIM_OK;
}

static aclError submit(void *stream, Transfer asked) {
  Transfer *kept = malloc(sizeof *kept);
  *kept = asked;
  return npusim_submit(stream, transfer, free, kept);
}

aclError aclrtMemcpy(void *to, size_t room, const void *from, size_t size, int kind) {
  aclError refused = npusim_refuse_unsafe();
  if (refused) return refused;
  if (size > room) return NPUSIM_INVALID;
  /* the one direction for which the host waits */
  if (kind == DEVICE_TO_HOST) npusim_trace("copy to host");
  memmove(to, from, size);
  return NPUSIM_OK;
}

aclError aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t size, int kind, void *stream) {
  if (size > room) return NPUSIM_INVALID;
  if ((kind == DEVICE_TO_HOST && !is_pinned(to)) || (kind == HOST_TO_DEVICE && !is_pinned(from))) {
    /* memory that may be moved is copied while the host waits, after what the stream was given */
    aclError refused = stream ? npusim_refuse_waiting(stream) : NPUSIM_OK;
    if (!refused && npusim_refuse_unsafe()) refused = NPUSIM_CAPTURE_BLOCKS;
    if (refused) return refused;
  }
  if (kind == DEVICE_TO_HOST) npusim_trace("copy to host");
  return submit(stream, (Transfer){to, from, size, 0});
}

aclError aclrtMemset(void *to, size_t room, int32_t value, size_t size) {
  aclError refused = npusim_refuse_unsafe();
  if (!refused) memset(to, value, size);
  return refused;
}

aclError aclrtMemsetAsync(void *to, size_t room, int32_t value, size_t size, void *stream) {
  return submit(stream, (Transfer){to, NULL, size, value});
}
