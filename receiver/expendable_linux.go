package receiver

import (
	"os"
	"strconv"
)

// expendable lets the kernel end a process, and those that it starts, before mesh when
// memory runs out (proc(5), oom_score_adj). Failing to say so changes nothing else.
func expendable(pid int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0)
}
