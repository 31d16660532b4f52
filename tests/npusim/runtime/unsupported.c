/* What torch_npu links against and the simulation has not: each call says so, on stderr, and fails. */
#include "npusim.h"

#include <stdio.h>

/* the older way of running an operator, which torch_npu takes where libopapi has no aclnn function of that name */
aclError aclopCompileAndExecute(const char *operator_type) {
  fprintf(stderr, "npusim: operator %s is not simulated; add its aclnn function under operators/\n", operator_type);
  npusim_set_error("npusim: operator %s is not simulated", operator_type);
  return NPUSIM_UNSUPPORTED;
}

aclError aclopCompileAndExecuteV2(const char *operator_type) { return aclopCompileAndExecute(operator_type); }

#define UNSUPPORTED(name)                                    \
  aclError name(void) {                                      \
    fprintf(stderr, "npusim: " #name " is not simulated\n"); \
    npusim_set_error("npusim: " #name " is not simulated");  \
    return NPUSIM_UNSUPPORTED;                               \
  }

/* pieces of the older way: handles that are made, filled and thrown away before the call above refuses */
#define HANDLE(name)            \
  void *name(void) {            \
    static char handle;         \
    return &handle;             \
  }
#define ACCEPTED(name) \
  aclError name(void) { return NPUSIM_OK; }

HANDLE(aclCreateDataBuffer)
HANDLE(aclCreateTensorDesc)
HANDLE(aclopCreateAttr)
ACCEPTED(aclDestroyDataBuffer)
ACCEPTED(aclDestroyTensorDesc)
ACCEPTED(aclGetTensorDescDimV2)
ACCEPTED(aclGetTensorDescFormat)
ACCEPTED(aclGetTensorDescNumDims)
ACCEPTED(aclGetTensorDescType)
ACCEPTED(aclSetTensorDescName)
ACCEPTED(aclSetTensorFormat)
ACCEPTED(aclSetTensorPlaceMent)
ACCEPTED(aclSetTensorShape)
ACCEPTED(aclopDestroyAttr)
ACCEPTED(aclopSetAttrBool)
ACCEPTED(aclopSetAttrDataType)
ACCEPTED(aclopSetAttrFloat)
ACCEPTED(aclopSetAttrInt)
ACCEPTED(aclopSetAttrListBool)
ACCEPTED(aclopSetAttrListFloat)
ACCEPTED(aclopSetAttrListInt)
ACCEPTED(aclopSetAttrListListInt)
ACCEPTED(aclopSetAttrString)

UNSUPPORTED(aclmdlFinalizeDump)
UNSUPPORTED(aclmdlInitDump)
UNSUPPORTED(aclmdlSetDump)
UNSUPPORTED(aclrtBinaryGetFunction)
UNSUPPORTED(aclrtBinaryLoadFromData)
UNSUPPORTED(aclrtFreePhysical)
UNSUPPORTED(aclrtGetFunctionAddr)
UNSUPPORTED(aclrtMallocPhysical)
UNSUPPORTED(aclrtMapMem)
UNSUPPORTED(aclrtMemExportToShareableHandle)
UNSUPPORTED(aclrtMemImportFromShareableHandle)
UNSUPPORTED(aclrtMemSetPidToShareableHandle)
UNSUPPORTED(aclrtReleaseMemAddress)
UNSUPPORTED(aclrtReserveMemAddress)
UNSUPPORTED(aclrtUnmapMem)
UNSUPPORTED(rtDevBinaryRegister)
UNSUPPORTED(rtFunctionRegister)
UNSUPPORTED(rtGetC2cCtrlAddr)
UNSUPPORTED(rtKernelLaunch)
