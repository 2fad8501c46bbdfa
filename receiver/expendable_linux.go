package receiver

import (
	"os"
	"strconv"
)

// expendable lets the kernel kill a process and its children before mesh when memory
// runs out (proc(5), oom_score_adj). A failure changes nothing else.
func expendable(pid int) {
	_ = os.WriteFile("/proc/"+strconv.Itoa(pid)+"/oom_score_adj", []byte("500"), 0)
}
