// Functions of known shares, called in known ways: the test's program lays a profile beside this.
// Every chain is: spin_<way>, what called it here, call_<way> (the method), the interpreter.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define OWN __attribute__((noinline, noclone, used))

// One of these a way, so that who spun is told by the name alone.
#define SPIN(way, ...) \
    __attribute__((noinline, noclone, used)) __VA_ARGS__ static double spin_##way(long rounds) { \
        volatile double sum = 1; \
        for (long i = 0; i < rounds; i++) sum = sum * 0.999999 + 1e-9; \
        return sum; \
    }
// Nothing may be left out by the compiler: the result is used.
#define METHOD(way, body) \
    OWN PyObject *call_##way(PyObject *, PyObject *argument) { \
        long rounds = PyLong_AsLong(argument); \
        double sum = body; \
        return PyFloat_FromDouble(sum * 2); \
    }

extern "C" {
SPIN(plain)
OWN double plain(long rounds) { return spin_plain(rounds) + 1; }
METHOD(plain, plain(rounds))

SPIN(pointer, __attribute__((optimize("no-omit-frame-pointer"))))
__attribute__((optimize("no-omit-frame-pointer"))) OWN double pointer(long rounds) { return spin_pointer(rounds) + 1; }
METHOD(pointer, pointer(rounds))

// A jump, not a call: `tail` is never on the stack.
SPIN(tail)
OWN double tail(long rounds) { return spin_tail(rounds); }
METHOD(tail, tail(rounds))

// A stack aligned anew, whose frame is found through a register of its own.
SPIN(aligned)
OWN double aligned(long rounds) {
    volatile char room[rounds % 64 + 64];
    __attribute__((aligned(128))) volatile double wide[16] = {0};
    room[rounds % 64] = 1;
    wide[rounds % 16] = spin_aligned(rounds);
    return wide[rounds % 16] + room[rounds % 64];
}
METHOD(aligned, aligned(rounds))

// Thrown through several frames, caught above.
SPIN(thrown)
OWN double thrower(long rounds, int depth) {
    if (depth == 0) throw spin_thrown(rounds);
    return thrower(rounds, depth - 1) + 1;
}
OWN double thrown(long rounds) {
    try {
        return thrower(rounds, 5);
    } catch (double sum) {
        return sum;
    }
}
METHOD(thrown, thrown(rounds))

// Through Python and back: call_back, a Python function, call_inner.
SPIN(inner)
OWN double inner(long rounds) { return spin_inner(rounds) + 1; }
METHOD(inner, inner(rounds))
OWN PyObject *back(PyObject *function) {
    PyObject *result = PyObject_CallFunction(function, NULL);
    if (result) PyErr_Clear();
    return result;
}
OWN PyObject *call_back(PyObject *, PyObject *function) {
    PyObject *result = back(function);
    if (result) PyErr_Clear();
    return result;
}

static PyMethodDef methods[] = {
#define ENTRY(way) {"call_" #way, call_##way, METH_O, ""},
    ENTRY(plain) ENTRY(pointer) ENTRY(tail) ENTRY(aligned) ENTRY(thrown) ENTRY(inner) ENTRY(back)
    {0, 0, 0, 0}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "known", 0, -1, methods, 0, 0, 0, 0};
PyMODINIT_FUNC PyInit_known(void) { return PyModule_Create(&module); }
}
