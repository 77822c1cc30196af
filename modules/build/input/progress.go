package input

import "sync"

// counter adds up progress and reports it: after each file, and within files
// once per reportStep bytes.
type counter struct {
	mu       sync.Mutex
	report   Report
	now      Progress
	reported int64
}

const reportStep = 1 << 20

func newCounter(report Report) *counter {
	if report == nil {
		report = func(Progress) {}
	}
	return &counter{report: report}
}

// expect adds files to the total.
func (c *counter) expect(files int, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Files += files
	c.now.Bytes += bytes
	c.tell()
}

// bytes counts what arrived; a negative number takes back what was no use.
func (c *counter) bytes(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.BytesDone += n
	if c.now.BytesDone-c.reported >= reportStep {
		c.tell()
	}
}

// arrived counts bytes of a file whose size was not known.
func (c *counter) arrived(n int64) {
	c.mu.Lock()
	c.now.Bytes += n
	c.mu.Unlock()
	c.bytes(n)
}

func (c *counter) file() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.FilesDone++
	c.tell()
}

func (c *counter) tell() {
	c.reported = c.now.BytesDone
	c.report(c.now)
}
