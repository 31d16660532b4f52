/* The simulated CANN's streams, events and settings: work is done when it is submitted, so nothing ever waits. */
#include "npusim.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define OPTIONS 8

typedef struct {
  int device;
} Stream;

typedef struct {
  double milliseconds;
} Event;

static int64_t options[OPTIONS];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

aclError aclrtCreateStream(void **out) {
  Stream *stream = calloc(1, sizeof *stream);
  stream->device = npusim_current_device();
  *out = stream;
  return NPUSIM_OK;
}

aclError aclrtCreateStreamWithConfig(void **out, uint32_t priority, uint32_t flag) { return aclrtCreateStream(out); }

aclError aclrtDestroyStream(void *stream) {
  free(stream);
  return NPUSIM_OK;
}

aclError aclrtDestroyStreamForce(void *stream) { return aclrtDestroyStream(stream); }
aclError aclrtSynchronizeStream(void *stream) { return NPUSIM_OK; }
aclError aclrtSynchronizeStreamWithTimeout(void *stream, int32_t timeout) { return NPUSIM_OK; }
aclError aclrtSynchronizeDevice(void) { return NPUSIM_OK; }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) { return NPUSIM_OK; }

aclError aclrtStreamQuery(void *stream, int *status) {
  *status = 0;
  return NPUSIM_OK;
}

aclError aclrtStreamGetId(void *stream, int32_t *id) {
  *id = (int32_t)((uintptr_t)stream >> 4);
  return NPUSIM_OK;
}

aclError aclrtStreamWaitEvent(void *stream, void *event) { return NPUSIM_OK; }
aclError aclrtSetStreamFailureMode(void *stream, uint64_t mode) { return NPUSIM_OK; }
aclError aclrtSetOpWaitTimeout(uint32_t timeout) { return NPUSIM_OK; }
aclError aclrtSetOpExecuteTimeOut(uint32_t timeout) { return NPUSIM_OK; }
aclError aclrtSetDeviceSatMode(int mode) { return NPUSIM_OK; }
aclError aclrtSetStreamOverflowSwitch(void *stream, uint32_t flag) { return NPUSIM_OK; }

aclError aclrtGetStreamOverflowSwitch(void *stream, uint32_t *flag) {
  *flag = 1;
  return NPUSIM_OK;
}

aclError aclrtCreateEvent(void **out) {
  *out = calloc(1, sizeof(Event));
  return NPUSIM_OK;
}

aclError aclrtCreateEventWithFlag(void **out, uint32_t flag) { return aclrtCreateEvent(out); }
aclError aclrtCreateEventExWithFlag(void **out, uint32_t flag) { return aclrtCreateEvent(out); }

aclError aclrtDestroyEvent(void *event) {
  free(event);
  return NPUSIM_OK;
}

aclError aclrtRecordEvent(void *event, void *stream) {
  ((Event *)event)->milliseconds = now();
  return NPUSIM_OK;
}

aclError aclrtResetEvent(void *event, void *stream) { return NPUSIM_OK; }
aclError aclrtSynchronizeEvent(void *event) { return NPUSIM_OK; }

aclError aclrtQueryEventStatus(void *event, int *status) {
  *status = 1;
  return NPUSIM_OK;
}

aclError aclrtQueryEventWaitStatus(void *event, int *status) {
  *status = 0;
  return NPUSIM_OK;
}

aclError aclrtEventElapsedTime(float *milliseconds, void *from, void *to) {
  *milliseconds = (float)(((Event *)to)->milliseconds - ((Event *)from)->milliseconds);
  return NPUSIM_OK;
}

aclError aclrtEventGetTimestamp(void *event, uint64_t *microseconds) {
  *microseconds = (uint64_t)(((Event *)event)->milliseconds * 1000);
  return NPUSIM_OK;
}

aclError aclrtProcessReport(int32_t timeout) {
  usleep(1000);
  return NPUSIM_OK;
}

aclError aclrtSubscribeReport(uint64_t thread, void *stream) { return NPUSIM_OK; }
aclError aclrtUnSubscribeReport(uint64_t thread, void *stream) { return NPUSIM_OK; }

aclError aclrtLaunchCallback(void (*function)(void *), void *data, int block, void *stream) {
  function(data);
  return NPUSIM_OK;
}

aclError aclrtGetLastError(int flag) { return NPUSIM_OK; }
aclError aclrtPeekAtLastError(int flag) { return NPUSIM_OK; }

aclError aclrtSetSysParamOpt(int option, int64_t value) {
  if (option >= 0 && option < OPTIONS) options[option] = value;
  return NPUSIM_OK;
}

aclError aclrtGetSysParamOpt(int option, int64_t *value) {
  *value = option >= 0 && option < OPTIONS ? options[option] : 0;
  return NPUSIM_OK;
}

aclError aclrtCtxSetSysParamOpt(int option, int64_t value) { return NPUSIM_OK; }

aclError aclrtCtxGetSysParamOpt(int option, int64_t *value) {
  *value = 0;
  return NPUSIM_OK;
}

aclError aclSetCompileopt(int option, const char *value) { return NPUSIM_OK; }
size_t aclGetCompileoptSize(int option) { return 256; }

aclError aclGetCompileopt(int option, char *value, size_t size) {
  if (size) value[0] = 0;
  return NPUSIM_OK;
}

aclError aclopSetCompileFlag(int flag) { return NPUSIM_OK; }

/* the profiler's side is called by torch_npu whether or not anyone profiles */
uint64_t MsprofGetHashId(const char *text, size_t size) { return 1; }
int MsprofRegisterCallback(uint32_t module, void *callback) { return 0; }
int MsprofReportAdditionalInfo(uint32_t age, const void *data, uint32_t size) { return 0; }
int MsprofReportApi(uint32_t age, const void *data) { return 0; }
int MsprofReportCompactInfo(uint32_t age, const void *data, uint32_t size) { return 0; }
uint64_t MsprofSysCycleTime(void) { return (uint64_t)(now() * 1e6); }
