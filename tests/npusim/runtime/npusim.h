/* What the pieces of the simulated runtime share: error codes, the knobs and the trace. */
#ifndef NPUSIM_H
#define NPUSIM_H
#include <stddef.h>
#include <stdint.h>

typedef int aclError;

enum {
  NPUSIM_OK = 0,
  NPUSIM_INVALID = 107000,
  NPUSIM_NO_CONTEXT = 107002,
  NPUSIM_UNSUPPORTED = 207000,
  NPUSIM_OUT_OF_MEMORY = 207001,
  NPUSIM_NO_DEVICE = 207004,
};

/* one line of the trace, to the file NPUSIM_TRACE names or to stderr where it is 1 */
__attribute__((format(printf, 1, 2))) void npusim_trace(const char *format, ...);
/* what aclGetRecentErrMsg will say */
__attribute__((format(printf, 1, 2))) void npusim_set_error(const char *format, ...);
/* the device of this thread, or -1 */
int npusim_current_device(void);

#endif
