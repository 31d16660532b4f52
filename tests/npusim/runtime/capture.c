/* The simulated CANN's stream capture: what a capturing stream is given is noted, and done when the model runs. */
#include "npusim.h"

#include <pthread.h>
#include <stdlib.h>

#define RELAXED 2 /* of the modes: 0 is global, 1 of the thread */

typedef struct Task {
  aclError (*work)(void *);
  void (*discard)(void *);
  void *data;
  struct Task *next;
} Task;

typedef struct Model {
  uint64_t id;
  Stream *origin, *streams; /* the streams that capture into it, the one on which it began among them */
  Task *first, **last;
  pthread_t thread;
  int mode;
  struct Model *next; /* of those being captured */
} Model;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Model *capturing;
static uint64_t models;
static __thread int thread_mode;

static int is_active(uint64_t id) {
  for (Model *model = capturing; model; model = model->next)
    if (model->id == id) return 1;
  return 0;
}

static void join(Stream *stream, Model *model) {
  stream->model = model;
  stream->next = model->streams;
  model->streams = stream;
}

/* what is done on a stream after an event is not before what waits for that event */
static void move_on(Stream *stream) {
  stream->done++;
  stream->open = 1;
}

static void add(Stream *stream, Task task) {
  Task *noted = malloc(sizeof *noted);
  *noted = task;
  *stream->model->last = noted;
  stream->model->last = &noted->next;
  move_on(stream);
}

aclError npusim_submit(void *on, aclError (*work)(void *), void (*discard)(void *), void *data) {
  Stream *stream = on;
  pthread_mutex_lock(&lock);
  int captured = stream && stream->model;
  if (captured) add(stream, (Task){work, discard, data, NULL});
  pthread_mutex_unlock(&lock);
  if (captured) return NPUSIM_OK;
  aclError status = work(data);
  if (discard) discard(data);
  return status;
}

aclError npusim_refuse_waiting(void *on) {
  Stream *stream = on;
  pthread_mutex_lock(&lock);
  int captured = stream ? stream->model != NULL : 0;
  /* a device waits for all its streams */
  for (Model *model = capturing; model && !stream; model = model->next)
    captured |= model->origin->device == npusim_current_device();
  pthread_mutex_unlock(&lock);
  if (!captured) return NPUSIM_OK;
  npusim_set_error("npusim: nothing can wait for a stream that is being captured");
  return NPUSIM_STREAM_CAPTURED;
}

aclError npusim_refuse_unsafe(void) {
  int refused = 0;
  pthread_mutex_lock(&lock);
  for (Model *model = capturing; model; model = model->next) {
    int here = pthread_equal(model->thread, pthread_self());
    /* a thread allows itself by its own mode what a capture of another mode forbids */
    refused |= model->mode != RELAXED && thread_mode != RELAXED && (here || (model->mode == 0 && thread_mode == 0));
  }
  pthread_mutex_unlock(&lock);
  if (!refused) return NPUSIM_OK;
  npusim_set_error("npusim: memory cannot be copied or set while a stream is being captured, unless asynchronously");
  return NPUSIM_CAPTURE_MODE;
}

aclError npusim_capture_record(Event *event, Stream *stream) {
  pthread_mutex_lock(&lock);
  aclError status = NPUSIM_OK;
  if (!stream || !stream->model) {
    event->capture = 0;
  } else if (!event->capturable) {
    status = NPUSIM_UNSUPPORTED;
  } else {
    event->capture = stream->model->id;
    event->stream = stream;
    event->after = stream->done;
  }
  event->recorded |= !status;
  pthread_mutex_unlock(&lock);
  return status;
}

aclError npusim_capture_wait(Stream *stream, Event *event) {
  pthread_mutex_lock(&lock);
  aclError status = NPUSIM_OK;
  int captured = is_active(event->capture);
  if (captured && !stream) {
    status = NPUSIM_CAPTURE_DEFAULT_STREAM;
  } else if (captured && stream->model && stream->model->id != event->capture) {
    status = NPUSIM_CAPTURE_CONFLICT;
  } else if (captured && stream != event->stream) {
    if (!stream->model) join(stream, event->stream->model);
    if (event->after == event->stream->done) event->stream->open = 0;
    move_on(stream);
  } else if (!captured && stream && stream->model) {
    status = event->capturable ? (event->recorded ? NPUSIM_CAPTURE_DEPENDENCY : NPUSIM_OK) : NPUSIM_UNSUPPORTED;
  }
  pthread_mutex_unlock(&lock);
  return status;
}

aclError npusim_refuse_captured(Event *event) {
  pthread_mutex_lock(&lock);
  int captured = is_active(event->capture);
  pthread_mutex_unlock(&lock);
  return captured ? NPUSIM_EVENT_CAPTURED : NPUSIM_OK;
}

aclError aclmdlRICaptureThreadExchangeMode(int *mode) {
  int before = thread_mode;
  thread_mode = *mode;
  *mode = before;
  return NPUSIM_OK;
}

aclError aclmdlRICaptureBegin(void *on, int mode) {
  Stream *stream = on;
  if (!stream) return NPUSIM_CAPTURE_DEFAULT_STREAM;
  pthread_mutex_lock(&lock);
  aclError status = stream->model ? NPUSIM_STREAM_CAPTURED : NPUSIM_OK;
  if (!status) {
    Model *model = calloc(1, sizeof *model);
    *model = (Model){++models, stream, NULL, NULL, NULL, pthread_self(), mode, capturing};
    model->last = &model->first;
    capturing = model;
    join(stream, model);
  }
  pthread_mutex_unlock(&lock);
  return status;
}

aclError aclmdlRICaptureGetInfo(void *on, int *status, void **model) {
  Stream *stream = on;
  pthread_mutex_lock(&lock);
  *status = stream && stream->model;
  if (model) *model = *status ? stream->model : NULL;
  pthread_mutex_unlock(&lock);
  return NPUSIM_OK;
}

aclError aclmdlRIGetId(void *model, uint32_t *id) {
  *id = (uint32_t)((Model *)model)->id;
  return NPUSIM_OK;
}

aclError aclmdlRIDestroy(void *of) {
  Model *model = of;
  for (Task *task = model->first, *next; task; task = next) {
    next = task->next;
    if (task->discard) task->discard(task->data);
    free(task);
  }
  free(model);
  return NPUSIM_OK;
}

/* lets the streams go; whether each but the first was waited for after the last thing that it was given */
static int release(Model *model) {
  int joined = 1;
  for (Stream *stream = model->streams, *next; stream; stream = next) {
    next = stream->next;
    joined &= stream == model->origin || !stream->open;
    stream->model = NULL;
    stream->next = NULL;
    stream->open = 0;
  }
  Model **link = &capturing;
  while (*link != model) link = &(*link)->next;
  *link = model->next;
  return joined;
}

aclError aclmdlRICaptureEnd(void *on, void **out) {
  Stream *stream = on;
  Model *model = NULL;
  pthread_mutex_lock(&lock);
  aclError status = NPUSIM_OK;
  if (!stream || !stream->model) {
    status = NPUSIM_STREAM_NOT_CAPTURED;
  } else if (stream->model->origin != stream) {
    status = NPUSIM_CAPTURE_UNMATCHED;
  } else if (stream->model->mode != RELAXED && !pthread_equal(stream->model->thread, pthread_self())) {
    status = NPUSIM_CAPTURE_WRONG_THREAD;
  } else {
    model = stream->model;
    if (!release(model)) status = NPUSIM_STREAM_UNJOINED;
  }
  pthread_mutex_unlock(&lock);
  *out = status ? NULL : model;
  if (status && model) aclmdlRIDestroy(model);
  return status;
}

aclError aclmdlRIExecuteAsync(void *of, void *on) {
  if (((Stream *)on)->model) {
    npusim_set_error("npusim: a model within another is not simulated");
    return NPUSIM_UNSUPPORTED;
  }
  npusim_trace("aclmdlRIExecuteAsync");
  for (Task *task = ((Model *)of)->first; task; task = task->next) {
    aclError status = task->work(task->data);
    if (status) return status;
  }
  return NPUSIM_OK;
}
