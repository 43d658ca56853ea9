//go:build pkcs11

package hsm

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// module is a PKCS#11 module in this process. It is loaded once, whatever number of keys is in it, because
// it can be initialized only once.
type module struct {
	ctx *pkcs11.Ctx

	mu    sync.Mutex
	pools []*pool // of the keys that were opened in it
}

var loaded = struct {
	sync.Mutex
	modules map[string]*module // by path, without links
}{modules: map[string]*module{}}

// load loads a module that only its owner may write: what is in it acts as this program.
func load(path string) (*module, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("module-path: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("module-path: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("module-path: %s is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return nil, fmt.Errorf("module-path: %s may be written by others than its owner (mode %04o), who could act as this server: make it 0755", path, mode)
	}
	loaded.Lock()
	defer loaded.Unlock()
	if m := loaded.modules[path]; m != nil {
		return m, nil
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("module-path: %s cannot be loaded: it is no PKCS#11 module, or none for this machine", path)
	}
	if err := ctx.Initialize(); err != nil {
		ctx.Destroy()
		return nil, fmt.Errorf("initialize %s: %w: its own configuration or its device may be missing", path, err)
	}
	m := &module{ctx: ctx}
	loaded.modules[path] = m
	return m, nil
}

// keep remembers a pool for Close.
func (m *module) keep(p *pool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pools = append(m.pools, p)
}

// closeTime is how long Close waits for signatures that are being made.
const closeTime = time.Second

// Close closes every session and ends the modules, at the end of the process: no key signs after it. A module
// that does not answer is left as it is.
func Close() {
	if !loaded.TryLock() { // one is being loaded, and does not answer
		return
	}
	defer loaded.Unlock()
	late := time.After(closeTime)
	for path, m := range loaded.modules {
		if m.stop(late) {
			_ = m.ctx.Finalize() // the process ends in any case
			m.ctx.Destroy()
		}
		delete(loaded.modules, path)
	}
}

func (m *module) stop(late <-chan time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		if !p.stop(late) {
			return false
		}
	}
	return true
}
