// The CUDA driver's functions, looked up when the program starts.
//
// libcuda.so.1 comes with the driver, which a machine that compiles does not have. Linked against a stub of it, the
// trainer would not even start where there is no driver, or one without a function of this list: the loader would end
// it with a message of its own. Linked against this, it starts and says what is missing (trainer/src/device.rs).
#include <dlfcn.h>

// Every function that the trainer calls: the linker names one that is not here.
#define DRIVER_FUNCTIONS(X) \
  X(cuCtxCreate_v3) X(cuCtxCreate_v4) X(cuCtxDestroy_v2) X(cuCtxGetCacheConfig) X(cuCtxGetCurrent) \
  X(cuCtxGetLimit) X(cuCtxGetStreamPriorityRange) X(cuCtxSetCacheConfig) X(cuCtxSetCurrent) X(cuCtxSetFlags) \
  X(cuCtxSetLimit) X(cuCtxSynchronize) X(cuDestroyExternalMemory) X(cuDeviceGet) X(cuDeviceGetAttribute) \
  X(cuDeviceGetCount) X(cuDeviceGetDefaultMemPool) X(cuDeviceGetMemPool) X(cuDeviceGetName) X(cuDeviceGetUuid) \
  X(cuDeviceGetUuid_v2) X(cuDevicePrimaryCtxRelease_v2) X(cuDevicePrimaryCtxRetain) X(cuDeviceSetMemPool) \
  X(cuDeviceTotalMem_v2) X(cuDriverGetVersion) X(cuEventCreate) X(cuEventDestroy_v2) X(cuEventElapsedTime) \
  X(cuEventElapsedTime_v2) X(cuEventQuery) X(cuEventRecord) X(cuEventSynchronize) \
  X(cuExternalMemoryGetMappedBuffer) X(cuFuncGetAttribute) X(cuFuncSetAttribute) X(cuFuncSetCacheConfig) \
  X(cuGetErrorName) X(cuGetErrorString) X(cuGraphDestroy) X(cuGraphExecDestroy) X(cuGraphInstantiateWithFlags) \
  X(cuGraphLaunch) X(cuGraphUpload) X(cuImportExternalMemory) X(cuInit) X(cuLaunchCooperativeKernel) \
  X(cuLaunchHostFunc) X(cuLaunchKernel) X(cuMemAdvise_v2) X(cuMemAllocAsync) X(cuMemAllocFromPoolAsync) \
  X(cuMemAllocManaged) X(cuMemAlloc_v2) X(cuMemFreeAsync) X(cuMemFreeHost) X(cuMemFree_v2) X(cuMemGetInfo_v2) \
  X(cuMemHostAlloc) X(cuMemPoolCreate) X(cuMemPoolDestroy) X(cuMemPoolGetAttribute) X(cuMemPoolSetAttribute) \
  X(cuMemPoolTrimTo) X(cuMemPrefetchAsync_v2) X(cuMemcpyDtoDAsync_v2) X(cuMemcpyDtoD_v2) X(cuMemcpyDtoHAsync_v2) \
  X(cuMemcpyDtoH_v2) X(cuMemcpyHtoDAsync_v2) X(cuMemcpyHtoD_v2) X(cuMemcpyPeerAsync) X(cuMemsetD8Async) \
  X(cuMemsetD8_v2) X(cuModuleGetFunction) X(cuModuleGetGlobal_v2) X(cuModuleLoad) X(cuModuleLoadData) \
  X(cuModuleUnload) X(cuOccupancyAvailableDynamicSMemPerBlock) X(cuOccupancyMaxActiveBlocksPerMultiprocessor) \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags) X(cuOccupancyMaxActiveClusters) \
  X(cuOccupancyMaxPotentialBlockSize) X(cuOccupancyMaxPotentialBlockSizeWithFlags) \
  X(cuOccupancyMaxPotentialClusterSize) X(cuProfilerStart) X(cuProfilerStop) X(cuStreamAttachMemAsync) \
  X(cuStreamBeginCapture_v2) X(cuStreamCreate) X(cuStreamCreateWithPriority) X(cuStreamDestroy_v2) \
  X(cuStreamEndCapture) X(cuStreamIsCapturing) X(cuStreamSynchronize) X(cuStreamWaitEvent)

#define CUDA_ERROR_STUB_LIBRARY 34
#define CUDA_ERROR_NOT_FOUND 500

static int no_driver(void) { return CUDA_ERROR_STUB_LIBRARY; }
static int not_in_this_driver(void) { return CUDA_ERROR_NOT_FOUND; }

#ifndef __x86_64__
#error "a jump through driver_NAME is written for x86-64 only"
#endif

// A call of NAME jumps on to where driver_NAME points, its arguments as they are.
#define DEFINE(name)                                                               \
  __attribute__((visibility("hidden"))) void *driver_##name = (void *)no_driver; \
  __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n\tjmp *driver_" #name "(%rip)\n");
DRIVER_FUNCTIONS(DEFINE)

__attribute__((constructor)) static void look_up(void) {
  void *driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!driver) return;
#define RESOLVE(name)                      \
  driver_##name = dlsym(driver, #name);  \
  if (!driver_##name) driver_##name = (void *)not_in_this_driver;
  DRIVER_FUNCTIONS(RESOLVE)
}
