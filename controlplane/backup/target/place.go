package target

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/secret"
)

// Place is where a target is: one of its fields is set.
type Place struct {
	S3   *S3   `json:"s3,omitempty"`
	SFTP *SFTP `json:"sftp,omitempty"`
}

// S3 is a bucket.
type S3 struct {
	Endpoint    string `json:"endpoint"` // https://HOST[:PORT]
	Region      string `json:"region"`   // empty where there is none
	Bucket      string `json:"bucket"`
	Prefix      string `json:"prefix"` // without slashes at its ends; empty is the top
	AccessKeyID string `json:"access_key_id"`
}

// SFTP is a directory of an SSH server.
type SFTP struct {
	Host      string `json:"host"`
	Port      uint32 `json:"port"`
	User      string `json:"user"`
	Directory string `json:"directory"` // there already
	HostKey   string `json:"host_key"`  // as a line of known_hosts has it after the name
}

// SFTPFrom takes in what somebody asks for.
func SFTPFrom(m *backupv1.SftpPlace) *SFTP {
	return &SFTP{
		Host: strings.ToLower(m.GetHost()), Port: cmp.Or(m.GetPort(), 22), User: m.GetUser(), Directory: m.GetDirectory(), HostKey: strings.TrimSpace(m.GetHostKey()),
	}
}

func (s *SFTP) message() *backupv1.SftpPlace {
	return &backupv1.SftpPlace{Host: s.Host, Port: s.Port, User: s.User, Directory: s.Directory, HostKey: s.HostKey}
}

func (s *SFTP) address() string {
	return net.JoinHostPort(s.Host, strconv.FormatUint(uint64(s.Port), 10))
}

// S3From takes in what somebody asks for.
func S3From(m *backupv1.S3Place) *S3 {
	return &S3{
		Endpoint: strings.ToLower(strings.TrimSuffix(m.GetEndpoint(), "/")), Region: m.GetRegion(), Bucket: m.GetBucket(),
		Prefix: strings.Trim(m.GetPrefix(), "/"), AccessKeyID: m.GetAccessKeyId(),
	}
}

func (s *S3) message() *backupv1.S3Place {
	return &backupv1.S3Place{Endpoint: s.Endpoint, Region: s.Region, Bucket: s.Bucket, Prefix: s.Prefix, AccessKeyId: s.AccessKeyID}
}

// String says in words where it is.
func (p Place) String() string {
	switch {
	case p.S3 != nil:
		return strings.TrimSuffix(fmt.Sprintf("the bucket %s at %s, in %s", p.S3.Bucket, p.S3.Endpoint, p.S3.Prefix), ", in ")
	case p.SFTP != nil:
		return fmt.Sprintf("the directory %s of %s at %s", p.SFTP.Directory, p.SFTP.User, p.SFTP.address())
	}
	return "nowhere"
}

// same says whether what lies in one place lies in the other.
func (p Place) same(other Place) bool {
	if p.SFTP != nil && other.SFTP != nil {
		return p.SFTP.address() == other.SFTP.address() && p.SFTP.User == other.SFTP.User && p.SFTP.Directory == other.SFTP.Directory
	}
	if p.S3 == nil || other.S3 == nil {
		return false
	}
	return p.S3.Endpoint == other.S3.Endpoint && p.S3.Bucket == other.S3.Bucket && p.S3.Prefix == other.S3.Prefix
}

var (
	regionPattern    = regexp.MustCompile(`^[A-Za-z0-9-]{0,64}$`)
	bucketPattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
	prefixPattern    = regexp.MustCompile(`^[A-Za-z0-9/_.-]{0,200}$`)
	accessKeyPattern = regexp.MustCompile(`^[A-Za-z0-9_.+/=-]{1,128}$`)
	hostPattern      = regexp.MustCompile(`^[A-Za-z0-9.:-]{1,253}$`)
	userPattern      = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$`)
	directoryPattern = regexp.MustCompile(`^[A-Za-z0-9/_. -]{1,400}$`)
)

// check refuses what is no place, naming the field.
func (p Place) check() error {
	switch {
	case p.S3 != nil:
		return p.S3.check()
	case p.SFTP != nil:
		return p.SFTP.check()
	}
	return fault.Invalid("place", "must be named")
}

func (s *SFTP) check() error {
	switch {
	case !hostPattern.MatchString(s.Host):
		return fault.Invalid("sftp.host", "must be a host name or an address")
	case s.Port == 0 || s.Port > 65535:
		return fault.Invalid("sftp.port", "must be 1 to 65535")
	case !userPattern.MatchString(s.User):
		return fault.Invalid("sftp.user", "must be at most 64 letters, digits and characters of _.@-")
	case !directoryPattern.MatchString(s.Directory) || upwards(strings.TrimPrefix(strings.TrimSuffix(s.Directory, "/"), "/")):
		return fault.Invalid("sftp.directory", "must be at most 400 letters, digits, spaces and characters of /_.-, and have no empty part and none that is . or ..")
	case len(s.HostKey) > 2000 || strings.ContainsAny(s.HostKey, "\r\n"):
		return fault.Invalid("sftp.host_key", "must be one line")
	}
	return nil
}

func (s *S3) check() error {
	endpoint, err := url.Parse(s.Endpoint)
	switch {
	case err != nil, endpoint.Scheme != "https", endpoint.Hostname() == "", s.Endpoint != "https://"+endpoint.Host, len(s.Endpoint) > 300:
		return fault.Invalid("s3.endpoint", "must be an URL with nothing but a host, like https://s3.example.com")
	case !regionPattern.MatchString(s.Region):
		return fault.Invalid("s3.region", "must be at most 64 letters, digits and hyphens")
	case !bucketPattern.MatchString(s.Bucket):
		return fault.Invalid("s3.bucket", "must be 3 to 63 lower-case letters, digits, hyphens and dots")
	case !prefixPattern.MatchString(s.Prefix) || upwards(s.Prefix):
		return fault.Invalid("s3.prefix", "must be at most 200 letters, digits and characters of /_.-, and have no empty part and none that is . or ..")
	case !accessKeyPattern.MatchString(s.AccessKeyID):
		return fault.Invalid("s3.access_key_id", "must be 1 to 128 letters, digits and characters of _.+/=-")
	}
	return nil
}

// upwards says whether a path has a part that leads nowhere, or out of it.
func upwards(path string) bool {
	return path != "" && slices.ContainsFunc(strings.Split(path, "/"), func(part string) bool { return part == "" || part == "." || part == ".." })
}

// Credentials let in to a place: the field for it is set.
type Credentials struct {
	SecretAccessKey secret.Secret // of an S3
	PrivateKey      secret.Secret // of an SFTP, as ssh-keygen writes it
	Password        secret.Secret // of an SFTP, instead
}

// CredentialsFrom takes in what somebody gives.
func CredentialsFrom(m *backupv1.TargetCredentials) Credentials {
	return Credentials{
		SecretAccessKey: secret.New([]byte(m.GetSecretAccessKey())), PrivateKey: secret.New([]byte(m.GetPrivateKey())), Password: secret.New([]byte(m.GetPassword())),
	}
}

// check refuses credentials that are none for a place.
func (c Credentials) check(p Place) error {
	switch {
	case p.S3 != nil && len(c.SecretAccessKey.Reveal()) == 0:
		return fault.Invalid("credentials.secret_access_key", "must be given for a bucket")
	case p.SFTP != nil && len(c.PrivateKey.Reveal()) == 0 && len(c.Password.Reveal()) == 0:
		return fault.Invalid("credentials.private_key", "must be given for an SSH server, or a password")
	}
	return nil
}

// kept is how they are kept, sealed.
type kept struct {
	SecretAccessKey string `json:"secret_access_key,omitempty"`
	PrivateKey      string `json:"private_key,omitempty"`
	Password        string `json:"password,omitempty"`
}

func (c Credentials) encode() ([]byte, error) {
	return json.Marshal(kept{SecretAccessKey: string(c.SecretAccessKey.Reveal()), PrivateKey: string(c.PrivateKey.Reveal()), Password: string(c.Password.Reveal())})
}

func decode(plain []byte) (Credentials, error) {
	var k kept
	if err := json.Unmarshal(plain, &k); err != nil {
		return Credentials{}, errors.New("what lets in to the backup target can't be read") // the cause may quote it
	}
	return Credentials{
		SecretAccessKey: secret.New([]byte(k.SecretAccessKey)), PrivateKey: secret.New([]byte(k.PrivateKey)), Password: secret.New([]byte(k.Password)),
	}, nil
}

// dial prepares to speak to a target. It says nothing to it.
func (t *Targets) dial(of Target, c Credentials) (store.Store, error) {
	if at := of.Place.SFTP; at != nil {
		return store.OpenSFTP(store.SFTPConfig{
			Address: at.address(), User: at.User, Directory: at.Directory, HostKey: at.HostKey, PrivateKey: c.PrivateKey, Password: c.Password,
			Dialer: t.config.Dialer, Called: of.Place.String(),
		})
	}
	if of.Place.S3 == nil {
		return nil, errors.New("the backup target has no place")
	}
	return store.OpenS3(store.S3Config{
		Endpoint: of.Place.S3.Endpoint, Region: of.Place.S3.Region, Bucket: of.Place.S3.Bucket, Prefix: of.Place.S3.Prefix,
		AccessKey: of.Place.S3.AccessKeyID, SecretKey: c.SecretAccessKey, Roots: t.config.Roots, Dialer: t.config.Dialer,
		Called: fmt.Sprintf("the bucket %s at %s", of.Place.S3.Bucket, strings.TrimPrefix(of.Place.S3.Endpoint, "https://")),
	})
}
