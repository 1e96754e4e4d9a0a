package site

import (
	"sync"

	"chom.dev/proto/contract"
)

// checks are the organizations that check a site now: they do so one at a time.
type checks struct {
	sync.Mutex
	of map[contract.OrganizationID]bool
}

// begin says whether an organization may check, which it then does until end.
func (c *checks) begin(who contract.OrganizationID) bool {
	c.Lock()
	defer c.Unlock()
	if c.of[who] {
		return false
	}
	if c.of == nil {
		c.of = map[contract.OrganizationID]bool{}
	}
	c.of[who] = true
	return true
}

func (c *checks) end(who contract.OrganizationID) {
	c.Lock()
	defer c.Unlock()
	delete(c.of, who)
}
