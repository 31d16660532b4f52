/* What the pieces of the simulated runtime share: error codes, streams and events, the knobs and the trace. */
#ifndef NPUSIM_H
#define NPUSIM_H
#include <stddef.h>
#include <stdint.h>

typedef int aclError;

/* as rt_error_codes.h in the wheel names them */
enum {
  NPUSIM_OK = 0,
  NPUSIM_INVALID = 107000,
  NPUSIM_NO_CONTEXT = 107002,
  NPUSIM_CAPTURE_DEPENDENCY = 107024,
  NPUSIM_STREAM_UNJOINED = 107025,
  NPUSIM_STREAM_CAPTURED = 107027,
  NPUSIM_EVENT_CAPTURED = 107028,
  NPUSIM_STREAM_NOT_CAPTURED = 107029,
  NPUSIM_CAPTURE_MODE = 107030,
  NPUSIM_CAPTURE_DEFAULT_STREAM = 107031,
  NPUSIM_CAPTURE_CONFLICT = 107032,
  NPUSIM_CAPTURE_UNMATCHED = 107036,
  NPUSIM_CAPTURE_WRONG_THREAD = 107038,
  NPUSIM_CAPTURE_BLOCKS = 107041,
  NPUSIM_UNSUPPORTED = 207000,
  NPUSIM_OUT_OF_MEMORY = 207001,
  NPUSIM_NO_DEVICE = 207004,
};

typedef struct Stream {
  int device;
  struct Model *model; /* into which it captures, or none */
  struct Stream *next; /* of those that capture into it */
  uint64_t done;       /* how many things it was given while it captured */
  int open;            /* whether no other stream waits for the last of them */
} Stream;

typedef struct {
  double milliseconds;
  int capturable, recorded;
  uint64_t capture; /* the model whose capture recorded it last, or 0 */
  Stream *stream;   /* where that was */
  uint64_t after;   /* what was done there before */
} Event;

/* one line of the trace, to the file NPUSIM_TRACE names or to stderr where it is 1 */
__attribute__((format(printf, 1, 2))) void npusim_trace(const char *format, ...);
/* what aclGetRecentErrMsg will say */
__attribute__((format(printf, 1, 2))) void npusim_set_error(const char *format, ...);
/* the device of this thread, or -1 */
int npusim_current_device(void);

/* does what a stream is given, at once, or notes it if the stream captures; data belongs to the stream from then on */
aclError npusim_submit(void *stream, aclError (*work)(void *), void (*discard)(void *), void *data);
/* an error if this stream, or any of the device where there is none, captures: nothing can wait for it */
aclError npusim_refuse_waiting(void *stream);
/* an error if what this thread does at once could be missed by a capture */
aclError npusim_refuse_unsafe(void);
/* an error if the event is part of a capture */
aclError npusim_refuse_captured(Event *event);
aclError npusim_capture_record(Event *event, Stream *stream);
aclError npusim_capture_wait(Stream *stream, Event *event);

#endif
