// Makes ggml prefer modelve's kernels for quantized matrices (crates/matmul) to its own.
//
// ggml asks its "extra buffer types" whether one of them computes an operation before it does so
// itself. They are meant for weights that they repacked; this one takes weights in the file's layout.

#include "ggml-backend-impl.h"
#include "ggml-cpu-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

#include <algorithm>

struct modelve_matmul {
    // Returns the size in bytes of `n` packed columns of `width` activations; 0 if there is no kernel.
    size_t (*packed_size)(int32_t type, int64_t width, int64_t n);
    // Packs part `part` of `parts` of the columns.
    void (*pack)(int32_t type, int64_t width, int64_t n, const char * x, size_t x_stride, int64_t part, int64_t parts,
                 void * packed);
    // Multiplies rows `first` to `first + count - 1` with all columns.
    void (*multiply)(int32_t type, int64_t width, int64_t n, const char * rows, int64_t first, int64_t count,
                     const void * packed, char * out, size_t out_stride);
};

namespace {

// The most rows in a tile of the kernels.
constexpr int64_t ROWS = 16;
// Maximum number of rows that a thread takes at a time. More rows make longer sequential reads, but
// the other threads wait longer for the last one.
constexpr int64_t CHUNK = 256;

modelve_matmul kernels;

struct traits : ggml::cpu::tensor_traits {
    bool work_size(int, const ggml_tensor * op, size_t & size) override {
        const ggml_tensor * w = op->src[0];
        // 64 more bytes, to align the packed columns to a cache line.
        size = kernels.packed_size(w->type, w->ne[0], op->src[1]->ne[1]) + 64;
        return true;
    }

    bool compute_forward(ggml_compute_params * params, ggml_tensor * op) override {
        if (params->use_ref) {
            return false;
        }
        const ggml_tensor * w = op->src[0];
        const ggml_tensor * x = op->src[1];
        const int64_t width = w->ne[0];
        const int64_t n     = x->ne[1];
        const int64_t rows  = w->ne[1];
        void * packed = reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(params->wdata) + 63) / 64 * 64);

        kernels.pack(w->type, width, n, static_cast<const char *>(x->data), x->nb[1], params->ith, params->nth, packed);

        if (params->ith == 0) {
            // Every thread starts with the chunk of its own index; the rest are handed out from there.
            ggml_threadpool_chunk_set(params->threadpool, params->nth);
        }
        ggml_barrier(params->threadpool);

        const int64_t fair = (rows / (4 * params->nth) + ROWS - 1) / ROWS * ROWS;
        const int64_t size = std::clamp(fair, ROWS, CHUNK);
        for (int64_t chunk = params->ith; chunk * size < rows;
             chunk = ggml_threadpool_chunk_add(params->threadpool, 1)) {
            const int64_t row = chunk * size;
            kernels.multiply(w->type, width, n, static_cast<const char *>(w->data), row, std::min(size, rows - row),
                             packed, static_cast<char *>(op->data), op->nb[1]);
        }
        return true;
    }
};

struct buffer_type : ggml::cpu::extra_buffer_type {
    // Returns false, so that no weights are allocated in buffers of this type.
    bool supports_op(ggml_backend_dev_t, const ggml_tensor *) override { return false; }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        static traits instance;
        if (op->op != GGML_OP_MUL_MAT) {
            return nullptr;
        }
        const ggml_tensor * w = op->src[0];
        const ggml_tensor * x = op->src[1];
        const bool plain = ggml_is_quantized(w->type) && x->type == GGML_TYPE_F32 && op->type == GGML_TYPE_F32 &&
                           w->ne[2] * w->ne[3] * x->ne[2] * x->ne[3] == 1 && ggml_is_contiguous(w) &&
                           x->nb[0] == sizeof(float) && op->nb[0] == sizeof(float);
        // Weights that were repacked for another kernel are in buffers that are not host buffers.
        const bool in_file_layout = w->buffer == nullptr || ggml_backend_buffer_is_host(w->buffer);
        if (plain && in_file_layout && kernels.packed_size(w->type, w->ne[0], x->ne[1]) > 0) {
            return &instance;
        }
        return nullptr;
    }
};

const char * name(ggml_backend_buffer_type_t) {
    return "modelve";
}

} // namespace

// Must be called once, before anything is computed. Where the CPU backend is a library, this function
// is part of that library, and the program looks it up by name.
#ifdef _WIN32
__declspec(dllexport)
#endif
extern "C" void modelve_register_matmul(modelve_matmul table) {
    kernels = table;
    static buffer_type context;
    static ggml_backend_buffer_type type = {
        /* .iface   = */ { name, nullptr, nullptr, nullptr, nullptr, nullptr },
        /* .device  = */ ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0),
        /* .context = */ &context,
    };
    ggml_backend_cpu_get_extra_buffer_types().push_back(&type);
}
