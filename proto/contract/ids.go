package contract

import (
	"crypto/rand"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// The ids of the things both sides talk about: UUIDs in their canonical
// lower-case text form. New ones are version 7, so they sort by birth.
type (
	// OrganizationID names the tenant.
	OrganizationID struct{ name[organizationIDRule] }
	// ServerID names one VPS and the agent on it.
	ServerID struct{ name[serverIDRule] }
	// SiteID names one site for its whole life.
	SiteID struct{ name[siteIDRule] }
	// TaskID names one order to one agent.
	TaskID struct{ name[taskIDRule] }
	// BackupID names one backup of a site.
	BackupID struct{ name[backupIDRule] }
	// RestoreID names one time that a backup was put back.
	RestoreID struct{ name[restoreIDRule] }
	// DrillID names one rehearsal of a restore.
	DrillID struct{ name[drillIDRule] }
	// PolicyID names one backup policy of an organization.
	PolicyID struct{ name[policyIDRule] }
	// TargetID names one place of an organization's own that backups are kept in.
	TargetID struct{ name[targetIDRule] }
	// ImportID names one upload that is to become a backup.
	ImportID struct{ name[importIDRule] }
)

// ParseOrganizationID accepts a canonical lower-case UUID.
func ParseOrganizationID(s string) (OrganizationID, error) {
	var id OrganizationID
	return id, id.set(s)
}

// ParseServerID accepts a canonical lower-case UUID.
func ParseServerID(s string) (ServerID, error) {
	var id ServerID
	return id, id.set(s)
}

// ParseSiteID accepts a canonical lower-case UUID.
func ParseSiteID(s string) (SiteID, error) {
	var id SiteID
	return id, id.set(s)
}

// ParseTaskID accepts a canonical lower-case UUID.
func ParseTaskID(s string) (TaskID, error) {
	var id TaskID
	return id, id.set(s)
}

// ParseBackupID accepts a canonical lower-case UUID.
func ParseBackupID(s string) (BackupID, error) {
	var id BackupID
	return id, id.set(s)
}

// ParseRestoreID accepts a canonical lower-case UUID.
func ParseRestoreID(s string) (RestoreID, error) {
	var id RestoreID
	return id, id.set(s)
}

// ParseDrillID accepts a canonical lower-case UUID.
func ParseDrillID(s string) (DrillID, error) {
	var id DrillID
	return id, id.set(s)
}

// ParsePolicyID accepts a canonical lower-case UUID.
func ParsePolicyID(s string) (PolicyID, error) {
	var id PolicyID
	return id, id.set(s)
}

// ParseTargetID accepts a canonical lower-case UUID.
func ParseTargetID(s string) (TargetID, error) {
	var id TargetID
	return id, id.set(s)
}

// ParseImportID accepts a canonical lower-case UUID.
func ParseImportID(s string) (ImportID, error) {
	var id ImportID
	return id, id.set(s)
}

// NewOrganizationID makes a fresh UUIDv7.
func NewOrganizationID() OrganizationID {
	return OrganizationID{name[organizationIDRule]{newUUID(time.Now())}}
}

// NewServerID makes a fresh UUIDv7.
func NewServerID() ServerID { return ServerID{name[serverIDRule]{newUUID(time.Now())}} }

// NewSiteID makes a fresh UUIDv7.
func NewSiteID() SiteID { return SiteID{name[siteIDRule]{newUUID(time.Now())}} }

// NewTaskID makes a fresh UUIDv7.
func NewTaskID() TaskID { return TaskID{name[taskIDRule]{newUUID(time.Now())}} }

// NewBackupID makes a fresh UUIDv7.
func NewBackupID() BackupID { return BackupID{name[backupIDRule]{newUUID(time.Now())}} }

// NewBackupIDAt makes a fresh UUIDv7 for those who have a better clock than the host's.
func NewBackupIDAt(now time.Time) BackupID { return BackupID{name[backupIDRule]{newUUID(now)}} }

// NewRestoreID makes a fresh UUIDv7.
func NewRestoreID() RestoreID { return RestoreID{name[restoreIDRule]{newUUID(time.Now())}} }

// NewDrillID makes a fresh UUIDv7.
func NewDrillID() DrillID { return DrillID{name[drillIDRule]{newUUID(time.Now())}} }

// NewPolicyID makes a fresh UUIDv7.
func NewPolicyID() PolicyID { return PolicyID{name[policyIDRule]{newUUID(time.Now())}} }

// NewTargetID makes a fresh UUIDv7.
func NewTargetID() TargetID { return TargetID{name[targetIDRule]{newUUID(time.Now())}} }

// NewImportID makes a fresh UUIDv7.
func NewImportID() ImportID { return ImportID{name[importIDRule]{newUUID(time.Now())}} }

// Born is when the id was made, to the millisecond, by the clock of whoever made it; zero for one that is not of version 7.
func (id BackupID) Born() time.Time {
	digits := strings.ReplaceAll(id.String(), "-", "")
	if len(digits) != 32 || digits[12] != '7' {
		return time.Time{}
	}
	ms, err := strconv.ParseInt(digits[:12], 16, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

type (
	organizationIDRule struct{}
	serverIDRule       struct{}
	siteIDRule         struct{}
	taskIDRule         struct{}
	backupIDRule       struct{}
	restoreIDRule      struct{}
	drillIDRule        struct{}
	policyIDRule       struct{}
	targetIDRule       struct{}
	importIDRule       struct{}
)

func (organizationIDRule) parse(s string) (string, error) { return parseUUID("organization id", s) }
func (serverIDRule) parse(s string) (string, error)       { return parseUUID("server id", s) }
func (siteIDRule) parse(s string) (string, error)         { return parseUUID("site id", s) }
func (taskIDRule) parse(s string) (string, error)         { return parseUUID("task id", s) }
func (backupIDRule) parse(s string) (string, error)       { return parseUUID("backup id", s) }
func (restoreIDRule) parse(s string) (string, error)      { return parseUUID("restore id", s) }
func (drillIDRule) parse(s string) (string, error)        { return parseUUID("drill id", s) }
func (policyIDRule) parse(s string) (string, error)       { return parseUUID("policy id", s) }
func (targetIDRule) parse(s string) (string, error)       { return parseUUID("target id", s) }
func (importIDRule) parse(s string) (string, error)       { return parseUUID("import id", s) }

const nilUUID = "00000000-0000-0000-0000-000000000000"

func parseUUID(kind, s string) (string, error) {
	if len(s) != len(nilUUID) {
		return "", invalid(kind, "must be a UUID of 36 characters")
	}
	for i := 0; i < len(s); i++ {
		switch i {
		case 8, 13, 18, 23:
			if s[i] != '-' {
				return "", invalid(kind, "must be a UUID with hyphens in their places")
			}
		default:
			if !isDigit(s[i]) && (s[i] < 'a' || s[i] > 'f') {
				return "", invalid(kind, "must be a UUID of lower-case hexadecimal digits")
			}
		}
	}
	if s == nilUUID {
		return "", invalid(kind, "must not be the nil UUID")
	}
	return s, nil
}

// newUUID lays out RFC 9562 version 7: 48 bits of milliseconds, 12 bits of the
// fraction (so that ids of one process sort by birth), then random.
func newUUID(now time.Time) string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	fraction := now.UnixNano() % 1e6 << 12 / 1e6
	b[6] = byte(fraction>>8) | 0x70
	b[7] = byte(fraction)
	b[8] = b[8]&0x3f | 0x80
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
