/* The simulated CANN's streams, events and settings: work is done when it is submitted, so nothing ever waits. */
#include "npusim.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define OPTIONS 8

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
  if (((Stream *)stream)->model) return NPUSIM_STREAM_CAPTURED;
  free(stream);
  return NPUSIM_OK;
}

aclError aclrtDestroyStreamForce(void *stream) { return aclrtDestroyStream(stream); }

/* only a capture keeps it from waiting: what a stream was given is done */
aclError aclrtSynchronizeStream(void *stream) { return stream ? npusim_refuse_waiting(stream) : NPUSIM_OK; }
aclError aclrtSynchronizeStreamWithTimeout(void *stream, int32_t timeout) { return aclrtSynchronizeStream(stream); }
aclError aclrtSynchronizeDevice(void) { return npusim_refuse_waiting(NULL); }
aclError aclrtSynchronizeDeviceWithTimeout(int32_t timeout) { return aclrtSynchronizeDevice(); }

aclError aclrtStreamQuery(void *stream, int *status) {
  *status = 0;
  return aclrtSynchronizeStream(stream);
}

aclError aclrtStreamGetId(void *stream, int32_t *id) {
  *id = (int32_t)((uintptr_t)stream >> 4);
  return NPUSIM_OK;
}

aclError aclrtStreamWaitEvent(void *stream, void *event) { return npusim_capture_wait(stream, event); }
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

/* the only events that a capture takes */
aclError aclrtCreateEventExWithFlag(void **out, uint32_t flag) {
  aclError status = aclrtCreateEvent(out);
  ((Event *)*out)->capturable = 1;
  return status;
}

aclError aclrtDestroyEvent(void *event) {
  free(event);
  return NPUSIM_OK;
}

aclError aclrtRecordEvent(void *event, void *stream) {
  ((Event *)event)->milliseconds = now();
  return npusim_capture_record(event, stream);
}

aclError aclrtResetEvent(void *event, void *stream) { return NPUSIM_OK; }
aclError aclrtSynchronizeEvent(void *event) { return npusim_refuse_captured(event); }

aclError aclrtQueryEventStatus(void *event, int *status) {
  *status = 1;
  return npusim_refuse_captured(event);
}

aclError aclrtQueryEventWaitStatus(void *event, int *status) {
  *status = 0;
  return npusim_refuse_captured(event);
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

typedef struct {
  void (*function)(void *);
  void *data;
} Callback;

static aclError call(void *data) {
  Callback *callback = data;
  callback->function(callback->data);
  return NPUSIM_OK;
}

aclError aclrtLaunchCallback(void (*function)(void *), void *data, int block, void *stream) {
  Callback *callback = malloc(sizeof *callback);
  *callback = (Callback){function, data};
  return npusim_submit(stream, call, free, callback);
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
