// The gradient where features forked to the label classifier and, behind the gradient reversal, to the domain
// classifier (Ganin & Lempitsky, arXiv 1409.7495, section 3.1):
//
//     gradient = label - lam * domain        and, without a label gradient,        gradient = -lam * domain
//
// Arithmetic is in float32: one fused multiply-add, then one rounding to the dtype of the result. float64, which has no
// wider type to check a fused multiply-add with, is multiplied and then added. reversal.py has the same in torch.
// Any alignment and any size; 16 bytes an access where all pointers allow it. No header is needed, so NVRTC compiles
// this wherever it runs.

constexpr int BLOCK = 256;  // threads; reversal_kernel.py launches as many

// ---- dtypes: how each is stored, and what it is computed in ----

struct F64 { using Stored = double; using Wide = double; };
struct F32 { using Stored = float; using Wide = float; };
struct F16 { using Stored = unsigned short; using Wide = float; };
struct BF16 { using Stored = unsigned short; using Wide = float; };

template <class Dtype> __device__ typename Dtype::Wide widen(typename Dtype::Stored value) { return value; }

template <> __device__ float widen<F16>(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

template <> __device__ float widen<BF16>(unsigned short bits) { return __uint_as_float(unsigned(bits) << 16); }

template <class Dtype> __device__ typename Dtype::Stored narrow(typename Dtype::Wide value) { return value; }

template <> __device__ unsigned short narrow<F16>(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

template <> __device__ unsigned short narrow<BF16>(float value) {
#if __CUDA_ARCH__ >= 800
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
#else  // to nearest, ties to even
    unsigned bits = __float_as_uint(value);
    return isnan(value) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
}

// ---- one element ----

__device__ float minus_product(float label, float lam, float domain) { return __fmaf_rn(-lam, domain, label); }
__device__ double minus_product(double label, double lam, double domain) {
    return __dadd_rn(label, __dmul_rn(-lam, domain));
}

// The result, which has the dtype of the label gradient where there is one.
template <class Result, class Domain>
__device__ typename Result::Stored element(
    bool has_label, typename Result::Stored label, typename Result::Wide lam, typename Domain::Stored domain) {
    using Wide = typename Result::Wide;
    Wide wide = widen<Domain>(domain);
    return narrow<Result>(has_label ? minus_product(widen<Result>(label), lam, wide) : -lam * wide);
}

template <class Dtype> __device__ bool is_finite(typename Dtype::Stored value) { return isfinite(widen<Dtype>(value)); }

// ---- all elements ----

template <class Stored, int N> struct alignas(sizeof(Stored) * N < 16 ? sizeof(Stored) * N : 16) Pack { Stored at[N]; };

__device__ bool aligned(const void *pointer) { return reinterpret_cast<unsigned long long>(pointer) % 16 == 0; }

// `label` may be null. lam is *lam_tensor, or lam_number where that is null. The non-finite results are added to
// *nonfinite, unless that is null.
template <class Result, class Domain>
__device__ void reverse(
    const void *label_pointer, const void *domain_pointer, void *result_pointer, long long size, double lam_number,
    const void *lam_tensor, unsigned long long *nonfinite) {
    using Wide = typename Result::Wide;
    using R = typename Result::Stored;
    using D = typename Domain::Stored;
    constexpr int N = 16 / (sizeof(R) < sizeof(D) ? sizeof(R) : sizeof(D));
    auto label = static_cast<const R *>(label_pointer);
    auto domain = static_cast<const D *>(domain_pointer);
    auto result = static_cast<R *>(result_pointer);
    const Wide lam = lam_tensor ? *static_cast<const Wide *>(lam_tensor) : Wide(lam_number);

    const long long thread = blockIdx.x * (long long)BLOCK + threadIdx.x, threads = gridDim.x * (long long)BLOCK;
    const bool in_packs = aligned(label) && aligned(domain) && aligned(result);
    const long long packs = in_packs ? size / N : 0;
    unsigned found = 0;
    for (long long i = thread; i < packs; i += threads) {
        const auto d = reinterpret_cast<const Pack<D, N> *>(domain)[i];
        const auto l = label ? reinterpret_cast<const Pack<R, N> *>(label)[i] : Pack<R, N>{};
        Pack<R, N> r;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            r.at[k] = element<Result, Domain>(label, l.at[k], lam, d.at[k]);
            found += nonfinite && !is_finite<Result>(r.at[k]);
        }
        reinterpret_cast<Pack<R, N> *>(result)[i] = r;
    }
    for (long long i = packs * N + thread; i < size; i += threads) {
        const R r = element<Result, Domain>(label, label ? label[i] : R{}, lam, domain[i]);
        result[i] = r;
        found += nonfinite && !is_finite<Result>(r);
    }
    if (nonfinite) {
        for (int lanes = 16; lanes; lanes /= 2) found += __shfl_down_sync(0xffffffff, found, lanes);
        if (threadIdx.x % 32 == 0 && found) atomicAdd(nonfinite, found);
    }
}

#define KERNEL(name, Result, Domain)                                                                        \
    extern "C" __global__ void __launch_bounds__(BLOCK) name(                                               \
        const void *label, const void *domain, void *result, long long size, double lam_number,             \
        const void *lam_tensor, unsigned long long *nonfinite) {                                            \
        reverse<Result, Domain>(label, domain, result, size, lam_number, lam_tensor, nonfinite);            \
    }

// reverse_RESULT_DOMAIN, named as torch prints its dtypes
KERNEL(reverse_float64_float64, F64, F64)
KERNEL(reverse_float32_float32, F32, F32)
KERNEL(reverse_float16_float16, F16, F16)
KERNEL(reverse_bfloat16_bfloat16, BF16, BF16)
KERNEL(reverse_float32_float16, F32, F16)
KERNEL(reverse_float32_bfloat16, F32, BF16)
KERNEL(reverse_float16_float32, F16, F32)
KERNEL(reverse_bfloat16_float32, BF16, F32)
