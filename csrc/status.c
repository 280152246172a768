/* status.c - codes in words, sizes of element types. */
#include "lanewise.h"

const char *lw_status_text(lw_status status)
{
    switch (status) {
    case LW_OK: return "success";
    case LW_E_MEMORY: return "not enough memory";
    case LW_E_ARGUMENT: return "a size, index or pointer is out of range";
    case LW_E_ISA: return "unknown instruction set, or this machine cannot run it";
    case LW_E_CANCELLED: return "cancelled";
    case LW_E_SYSTEM: return "the system refused a thread or a mapping";
    }
    return "unknown status";
}

size_t lw_type_size(lw_type type)
{
    switch (type) {
    case LW_F32:
    case LW_I32: return 4;
    case LW_F16:
    case LW_BF16: return 2;
    case LW_I8:
    case LW_U8:
    case LW_BLOCKS: return 1;
    }
    return 0;
}
