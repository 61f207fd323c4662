/* The Python module `_dada_kernels`: plans, reduction of batches, decoding. Arrays come in and go out as buffers;
 * what they mean is documented in dada.kernels. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "plan_build.h"

#define MAX_PIXELS (1u << 30)
#define N_SCALARS 10

typedef struct {
    PyObject_HEAD
    Plan plan;
    const Kernel *kernel;
} PlanObject;

static bool has_bytes(const Py_buffer *view, size_t size, const char *name)
{
    if ((size_t)view->len == size)
        return true;
    PyErr_Format(PyExc_ValueError, "%s has %zd bytes, %zu are needed", name, view->len, size);
    return false;
}

/* ---- building ------------------------------------------------------------------------------------------------ */

static bool plan_numbers(Plan *plan, Py_ssize_t rows, Py_ssize_t columns, unsigned element, Py_ssize_t n_bins,
                         Py_ssize_t n_rois)
{
    if (rows < 1 || columns < 1 || rows > MAX_PIXELS || columns > MAX_PIXELS / rows) {
        PyErr_SetString(PyExc_ValueError, "a frame has 1 to 2^30 pixels");
        return false;
    }
    if (element != 1 && element != 2 && element != 4) {
        PyErr_SetString(PyExc_ValueError, "a pixel has 1, 2 or 4 bytes");
        return false;
    }
    if (n_bins < 0 || n_bins > NO_BIN || n_rois < 0 || n_rois > 65536) {
        PyErr_SetString(PyExc_ValueError, "at most 65535 bins and 65536 ROIs");
        return false;
    }
    plan->n_rows = (size_t)rows;
    plan->n_columns = (size_t)columns;
    plan->n_pixels = plan->n_rows * plan->n_columns;
    plan->element = element;
    plan->n_bins = (size_t)n_bins;
    plan->n_rois = (size_t)n_rois;
    return true;
}

static bool plan_tables(Plan *plan, const Py_buffer *valid, const Py_buffer *bins, const Py_buffer *rois)
{
    size_t n_bytes = (plan->n_pixels + 7) / 8;
    if (!has_bytes(valid, n_bytes, "valid") || (bins->buf && !has_bytes(bins, plan->n_pixels * 2, "bins")) ||
        (plan->n_rois && !has_bytes(rois, n_bytes * plan->n_rois, "rois")))
        return false;
    bool built;
    Py_BEGIN_ALLOW_THREADS
    built = plan_build(plan, valid->buf, bins->buf, rois->buf);
    Py_END_ALLOW_THREADS
    if (!built)
        PyErr_NoMemory();
    return built;
}

static PyObject *plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"rows", "columns", "element", "valid", "bins", "n_bins", "rois", "n_rois", "cut",
                            "threshold", "moments", "kernel", NULL};
    Py_ssize_t rows, columns, n_bins, n_rois;
    unsigned element;
    unsigned long cut, threshold;
    int moments;
    const char *kernel_name;
    Py_buffer valid = {0}, bins = {0}, rois = {0};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "nnIy*z*nz*nkkpz", names, &rows, &columns, &element, &valid, &bins,
                                     &n_bins, &rois, &n_rois, &cut, &threshold, &moments, &kernel_name))
        return NULL;
    PlanObject *self = (PlanObject *)type->tp_alloc(type, 0);
    bool ok = self && plan_numbers(&self->plan, rows, columns, element, n_bins, n_rois);
    if (ok) {
        self->plan.cut = (uint32_t)cut;
        self->plan.threshold = (uint32_t)threshold;
        self->plan.moments = moments;
        self->kernel = kernel_choose(kernel_name);
        if (!self->kernel)
            PyErr_Format(PyExc_ValueError, "this machine cannot run the kernel %s", kernel_name);
        ok = self->kernel && plan_tables(&self->plan, &valid, &bins, &rois);
    }
    PyBuffer_Release(&valid);
    PyBuffer_Release(&bins);
    PyBuffer_Release(&rois);
    if (!ok)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void plan_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    plan_free(&((PlanObject *)self)->plan);
    type->tp_free(self);
    Py_DECREF(type);
}

/* ---- chunks -------------------------------------------------------------------------------------------------- */

typedef struct {
    size_t n;
    Py_buffer *views;
    Chunk *chunks;
} Chunks;

static void chunks_release(Chunks *chunks)
{
    for (size_t i = 0; i < chunks->n; i++)
        PyBuffer_Release(&chunks->views[i]);
    PyMem_Free(chunks->views);
    PyMem_Free(chunks->chunks);
}

/* Take hold of a sequence of (buffer, codec). */
static bool chunks_acquire(PyObject *sequence, Chunks *chunks)
{
    PyObject *fast = PySequence_Fast(sequence, "chunks must be a sequence of (bytes, codec)");
    if (!fast)
        return false;
    size_t n = (size_t)PySequence_Fast_GET_SIZE(fast);
    *chunks = (Chunks){.views = PyMem_Calloc(n + 1, sizeof(Py_buffer)), .chunks = PyMem_Calloc(n + 1, sizeof(Chunk))};
    bool ok = chunks->views && chunks->chunks;
    if (!ok)
        PyErr_NoMemory();
    for (size_t i = 0; ok && i < n; i++) {
        int codec;
        ok = PyArg_ParseTuple(PySequence_Fast_GET_ITEM(fast, (Py_ssize_t)i), "y*i", &chunks->views[i], &codec);
        if (!ok)
            break;
        chunks->n = i + 1;
        const Py_buffer *view = &chunks->views[i];
        bool known = codec >= CODEC_NONE && codec <= CODEC_OTHER;
        chunks->chunks[i] = (Chunk){view->buf, (size_t)view->len, known ? (enum codec)codec : CODEC_OTHER};
    }
    Py_DECREF(fast);
    if (!ok)
        chunks_release(chunks);
    return ok;
}

/* ---- reducing ------------------------------------------------------------------------------------------------ */

enum output { OUT_STATUS, OUT_SCALARS, OUT_BINS, OUT_BIN_COUNTS, OUT_ROIS, OUT_ROI_COUNTS, N_OUTPUTS };

static void begin_sums(const Plan *plan, size_t i, const Py_buffer *out, uint32_t *cells, FrameSums *sums)
{
    int64_t *bins = out[OUT_BINS].buf, *bin_counts = out[OUT_BIN_COUNTS].buf;
    int64_t *rois = out[OUT_ROIS].buf, *roi_counts = out[OUT_ROI_COUNTS].buf;
    *sums = (FrameSums){.maximum = -1,
                        .cells = cells + i * (plan->n_cells + 1),
                        .bins = bins + i * plan->n_bins,
                        .bin_counts = bin_counts + i * plan->n_bins,
                        .rois = rois + i * plan->n_rois,
                        .roi_counts = roi_counts + i * plan->n_rois};
    if (plan->n_bins) {
        memset(sums->bins, 0, plan->n_bins * sizeof(int64_t));
        if (plan->bins)
            memcpy(sums->bin_counts, plan->bin_counts, plan->n_bins * sizeof(int64_t));
    }
    if (plan->n_rois) {
        memset(sums->rois, 0, plan->n_rois * sizeof(int64_t));
        memcpy(sums->roi_counts, plan->roi_counts, plan->n_rois * sizeof(int64_t));
    }
}

static void clear_tables(const Plan *plan, FrameSums *sums)
{
    if (plan->n_bins) {
        memset(sums->bins, 0, plan->n_bins * sizeof(int64_t));
        memset(sums->bin_counts, 0, plan->n_bins * sizeof(int64_t));
    }
    if (plan->n_rois) {
        memset(sums->rois, 0, plan->n_rois * sizeof(int64_t));
        memset(sums->roi_counts, 0, plan->n_rois * sizeof(int64_t));
    }
}

/* Write a frame's numbers; a frame that failed, or whose sums need more than 63 bits, gets zeros and its status. */
static void end_sums(const Plan *plan, FrameSums *sums, int32_t *status, int64_t *scalars)
{
    sums_fold(plan, sums);
    const u128 wide[] = {sums->sum, sums->sum_y, sums->sum_x, sums->sum_yy, sums->sum_xx, sums->sum_xy};
    for (unsigned k = 0; k < 6; k++)
        if (sums->status == STATUS_OK && wide[k] > (u128)INT64_MAX)
            sums->status = STATUS_OVERFLOW;
    *status = sums->status;
    memset(scalars, 0, N_SCALARS * sizeof *scalars);
    if (sums->status) {
        scalars[9] = -1;
        clear_tables(plan, sums);
        return;
    }
    scalars[0] = (int64_t)(plan->n_pixels - plan->n_masked - sums->n_value_invalid);
    for (unsigned k = 0; k < 6; k++)
        scalars[1 + k] = (int64_t)wide[k];
    scalars[7] = (int64_t)plan->n_masked;
    scalars[8] = (int64_t)sums->n_value_invalid;
    scalars[9] = sums->maximum;
}

/* Working memory of one call. */
typedef struct {
    FrameSums *sums;
    uint32_t *cells, *lane_cells;
    Pending *pending;
} Work;

static void work_free(Work *work)
{
    free(work->sums);
    free(work->cells);
    free(work->lane_cells);
    free(work->pending);
}

/* Frames are reduced together, LANES at a time, where there are cells and more than one frame. */
static bool work_new(const Plan *plan, size_t n, Work *work)
{
    size_t n_cells = plan->n_cells + 1, groups = (n + LANES - 1) / LANES;
    bool together = plan->cells && n > 1;
    *work = (Work){.sums = calloc(n + 1, sizeof *work->sums), .cells = calloc(n + 1, n_cells * sizeof *work->cells)};
    if (together) {
        work->lane_cells = calloc(groups * LANES, n_cells * sizeof *work->lane_cells);
        work->pending = calloc(2, sizeof *work->pending);
    }
    return work->sums && work->cells && (!together || (work->lane_cells && work->pending));
}

static int run(const PlanObject *self, const Chunks *chunks, const Py_buffer *out)
{
    const Plan *plan = &self->plan;
    Work work;
    int status = work_new(plan, chunks->n, &work) ? STATUS_OK : STATUS_MEMORY;
    for (size_t i = 0; status == STATUS_OK && i < chunks->n; i++) {
        begin_sums(plan, i, out, work.cells, &work.sums[i]);
        work.sums[i].pending = work.pending;
        work.sums[i].lane = i % LANES;
        if (work.lane_cells)
            work.sums[i].lane_cells = work.lane_cells + i / LANES * LANES * (plan->n_cells + 1);
    }
    if (status == STATUS_OK)
        status = reduce_batch(self->kernel, plan, chunks->chunks, chunks->n, work.sums);
    for (size_t i = 0; status == STATUS_OK && i < chunks->n; i++)
        end_sums(plan, &work.sums[i], (int32_t *)out[OUT_STATUS].buf + i,
                 (int64_t *)out[OUT_SCALARS].buf + i * N_SCALARS);
    work_free(&work);
    return status;
}

static bool outputs_fit(const Plan *plan, size_t n, const Py_buffer *out)
{
    size_t table = n * sizeof(int64_t);
    return has_bytes(&out[OUT_STATUS], n * sizeof(int32_t), "status") &&
           has_bytes(&out[OUT_SCALARS], table * N_SCALARS, "scalars") &&
           has_bytes(&out[OUT_BINS], table * plan->n_bins, "bins") &&
           has_bytes(&out[OUT_BIN_COUNTS], table * plan->n_bins, "bin_counts") &&
           has_bytes(&out[OUT_ROIS], table * plan->n_rois, "rois") &&
           has_bytes(&out[OUT_ROI_COUNTS], table * plan->n_rois, "roi_counts");
}

static PyObject *plan_reduce(PyObject *object, PyObject *args)
{
    PlanObject *self = (PlanObject *)object;
    PyObject *sequence;
    Py_buffer out[N_OUTPUTS] = {0};
    if (!PyArg_ParseTuple(args, "Ow*w*w*w*w*w*", &sequence, &out[0], &out[1], &out[2], &out[3], &out[4], &out[5]))
        return NULL;
    Chunks chunks = {0};
    int status = STATUS_OK;
    bool ok = chunks_acquire(sequence, &chunks);
    if (ok) {
        ok = outputs_fit(&self->plan, chunks.n, out);
        if (ok) {
            Py_BEGIN_ALLOW_THREADS
            status = run(self, &chunks, out);
            Py_END_ALLOW_THREADS
        }
        chunks_release(&chunks);
    }
    for (unsigned k = 0; k < N_OUTPUTS; k++)
        PyBuffer_Release(&out[k]);
    if (!ok)
        return NULL;
    if (status)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Frames are walked through before they are added: what was added of one that turns out to be damaged could not be taken
 * back. */
static int add_to_pixels(const PlanObject *self, const Chunks *chunks, int32_t *status, PixelSums *pixels)
{
    const Plan *plan = &self->plan;
    for (size_t i = 0; i < chunks->n; i++)
        status[i] = walk_chunk(self->kernel, &chunks->chunks[i], plan->n_pixels, plan->element);
    Chunk *sound = malloc((chunks->n + 1) * sizeof *sound);
    FrameSums *sums = calloc(chunks->n + 1, sizeof *sums);
    size_t n = 0;
    for (size_t i = 0; sound && sums && i < chunks->n; i++)
        if (status[i] == STATUS_OK) {
            sums[n].pixels = pixels;
            sound[n++] = chunks->chunks[i];
        }
    int result = sound && sums ? reduce_batch(self->kernel, plan, sound, n, sums) : STATUS_MEMORY;
    for (size_t i = 0; i < n && result == STATUS_OK; i++)
        result = sums[i].status;
    free(sound);
    free(sums);
    return result;
}

enum pixel_output { PIXEL_STATUS, PIXEL_SUM, PIXEL_SQUARES, PIXEL_SQUARES_HIGH, PIXEL_MAXIMUM, PIXEL_DROPPED, N_PIXEL };

static bool pixels_fit(const Plan *plan, size_t n, const Py_buffer *out)
{
    size_t wide = plan->n_pixels * sizeof(uint64_t), narrow = plan->n_pixels * sizeof(uint32_t);
    return has_bytes(&out[PIXEL_STATUS], n * sizeof(int32_t), "status") && has_bytes(&out[PIXEL_SUM], wide, "sum") &&
           has_bytes(&out[PIXEL_SQUARES], wide, "squares") &&
           has_bytes(&out[PIXEL_SQUARES_HIGH], wide, "squares_high") &&
           has_bytes(&out[PIXEL_MAXIMUM], narrow, "maximum") && has_bytes(&out[PIXEL_DROPPED], narrow, "dropped");
}

static PyObject *plan_accumulate(PyObject *object, PyObject *args)
{
    PlanObject *self = (PlanObject *)object;
    PyObject *sequence;
    Py_buffer out[N_PIXEL] = {0};
    if (!PyArg_ParseTuple(args, "Ow*w*w*w*w*w*", &sequence, &out[0], &out[1], &out[2], &out[3], &out[4], &out[5]))
        return NULL;
    Chunks chunks = {0};
    int status = STATUS_OK;
    bool ok = chunks_acquire(sequence, &chunks);
    if (ok) {
        ok = pixels_fit(&self->plan, chunks.n, out);
        if (ok) {
            PixelSums pixels = {out[PIXEL_SUM].buf, out[PIXEL_SQUARES].buf, out[PIXEL_SQUARES_HIGH].buf,
                                out[PIXEL_MAXIMUM].buf, out[PIXEL_DROPPED].buf};
            Py_BEGIN_ALLOW_THREADS
            status = add_to_pixels(self, &chunks, out[PIXEL_STATUS].buf, &pixels);
            Py_END_ALLOW_THREADS
        }
        chunks_release(&chunks);
    }
    for (unsigned k = 0; k < N_PIXEL; k++)
        PyBuffer_Release(&out[k]);
    if (!ok)
        return NULL;
    if (status)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *plan_kernel(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(((PlanObject *)self)->kernel->name);
}

static PyMethodDef plan_methods[] = {
    {"reduce", plan_reduce, METH_VARARGS,
     "reduce(chunks, status, scalars, bins, bin_counts, rois, roi_counts): reduce a batch into the given buffers"},
    {"accumulate", plan_accumulate, METH_VARARGS,
     "accumulate(chunks, status, sum, squares, squares_high, maximum, dropped): add a batch pixel by pixel"},
    {0},
};

static PyGetSetDef plan_attributes[] = {
    {"kernel", plan_kernel, NULL, "Name of the instruction set in use.", NULL},
    {0},
};

static PyType_Slot plan_slots[] = {
    {Py_tp_new, plan_new},
    {Py_tp_dealloc, plan_dealloc},
    {Py_tp_methods, plan_methods},
    {Py_tp_getset, plan_attributes},
    {Py_tp_doc, "The tables of one scan; see dada.kernels.FrameReducer."},
    {0, NULL},
};

static PyType_Spec plan_spec = {
    .name = "_dada_kernels.Plan",
    .basicsize = sizeof(PlanObject),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = plan_slots,
};

/* ---- module functions ---------------------------------------------------------------------------------------- */

static PyObject *decode(PyObject *module, PyObject *args)
{
    (void)module;
    Py_buffer data, pixels;
    int codec, status = STATUS_SIZE;
    unsigned element;
    if (!PyArg_ParseTuple(args, "y*iIw*", &data, &codec, &element, &pixels))
        return NULL;
    bool sane = (element == 1 || element == 2 || element == 4) && pixels.len % element == 0;
    if (sane) {
        Chunk chunk = {data.buf, (size_t)data.len, codec >= 0 && codec < CODEC_OTHER ? (enum codec)codec : CODEC_OTHER};
        Py_BEGIN_ALLOW_THREADS
        status = decode_frame(&chunk, (size_t)pixels.len / element, element, pixels.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&pixels);
    if (!sane) {
        PyErr_SetString(PyExc_ValueError, "pixels must be a whole number of 1, 2 or 4 byte elements");
        return NULL;
    }
    return PyLong_FromLong(status);
}

static PyObject *decompress_only(PyObject *module, PyObject *args)
{
    (void)module;
    PyObject *sequence;
    Py_ssize_t n_pixels;
    unsigned element;
    if (!PyArg_ParseTuple(args, "OnI", &sequence, &n_pixels, &element))
        return NULL;
    if (n_pixels < 1 || n_pixels > MAX_PIXELS || (element != 1 && element != 2 && element != 4)) {
        PyErr_SetString(PyExc_ValueError, "a frame has 1 to 2^30 pixels of 1, 2 or 4 bytes");
        return NULL;
    }
    Chunks chunks = {0};
    if (!chunks_acquire(sequence, &chunks))
        return NULL;
    int status = STATUS_OK;
    Py_BEGIN_ALLOW_THREADS
    for (size_t i = 0; i < chunks.n && status == STATUS_OK; i++)
        status = walk_chunk(&kernel_portable, &chunks.chunks[i], (size_t)n_pixels, element);
    Py_END_ALLOW_THREADS
    chunks_release(&chunks);
    return PyLong_FromLong(status);
}

static PyObject *kernels(PyObject *module, PyObject *args)
{
    (void)module;
    (void)args;
    static const char *names[] = {"portable", "avx2", "avx512"};
    PyObject *list = PyList_New(0);
    for (unsigned i = 0; list && i < sizeof names / sizeof *names; i++) {
        if (!kernel_choose(names[i]))
            continue;
        PyObject *name = PyUnicode_FromString(names[i]);
        if (!name || PyList_Append(list, name) < 0)
            Py_CLEAR(list);
        Py_XDECREF(name);
    }
    return list;
}

static PyMethodDef functions[] = {
    {"decode", decode, METH_VARARGS, "decode(data, codec, element, pixels) -> status: one frame into a buffer"},
    {"decompress_only", decompress_only, METH_VARARGS,
     "decompress_only(chunks, n_pixels, element) -> status: run LZ4 over the blocks and drop them (for measuring)"},
    {"kernels", kernels, METH_NOARGS, "Names of the instruction sets that this machine can run."},
    {0},
};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromSpec(&plan_spec);
    if (!type)
        return -1;
    int result = PyModule_AddObjectRef(module, "Plan", type);
    Py_DECREF(type);
    return result;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, "_dada_kernels", "Compiled reductions of detector frames; use dada.kernels.", 0,
    functions, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__dada_kernels(void)
{
    return PyModuleDef_Init(&module_definition);
}
