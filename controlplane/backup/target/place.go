package target

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	backupv1 "chom.dev/proto/gen/chom/backup/v1"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/secret"
)

// Place is where a target is: one of its fields is set.
type Place struct {
	S3 *S3 `json:"s3,omitempty"`
}

// S3 is a bucket.
type S3 struct {
	Endpoint    string `json:"endpoint"` // https://HOST[:PORT]
	Region      string `json:"region"`   // empty where there is none
	Bucket      string `json:"bucket"`
	Prefix      string `json:"prefix"` // without slashes at its ends; empty is the top
	AccessKeyID string `json:"access_key_id"`
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
	if p.S3 != nil {
		return strings.TrimSuffix(fmt.Sprintf("the bucket %s at %s, in %s", p.S3.Bucket, p.S3.Endpoint, p.S3.Prefix), ", in ")
	}
	return "nowhere"
}

// same says whether what lies in one place lies in the other.
func (p Place) same(other Place) bool {
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
)

// check refuses what is no place, naming the field.
func (p Place) check() error {
	if p.S3 == nil {
		return fault.Invalid("place", "must be named")
	}
	return p.S3.check()
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
}

// CredentialsFrom takes in what somebody gives.
func CredentialsFrom(m *backupv1.TargetCredentials) Credentials {
	return Credentials{SecretAccessKey: secret.New([]byte(m.GetSecretAccessKey()))}
}

// check refuses credentials that are none for a place.
func (c Credentials) check(p Place) error {
	if p.S3 != nil && len(c.SecretAccessKey.Reveal()) == 0 {
		return fault.Invalid("credentials.secret_access_key", "must be given for a bucket")
	}
	return nil
}

// kept is how they are kept, sealed.
type kept struct {
	SecretAccessKey string `json:"secret_access_key,omitempty"`
}

func (c Credentials) encode() ([]byte, error) {
	return json.Marshal(kept{SecretAccessKey: string(c.SecretAccessKey.Reveal())})
}

func decode(plain []byte) (Credentials, error) {
	var k kept
	if err := json.Unmarshal(plain, &k); err != nil {
		return Credentials{}, errors.New("what lets in to the backup target can't be read") // the cause may quote it
	}
	return Credentials{SecretAccessKey: secret.New([]byte(k.SecretAccessKey))}, nil
}

// dial prepares to speak to a target. It says nothing to it.
func (t *Targets) dial(of Target, c Credentials) (store.Store, error) {
	if of.Place.S3 == nil {
		return nil, errors.New("the backup target has no place")
	}
	return store.OpenS3(store.S3Config{
		Endpoint: of.Place.S3.Endpoint, Region: of.Place.S3.Region, Bucket: of.Place.S3.Bucket, Prefix: of.Place.S3.Prefix,
		AccessKey: of.Place.S3.AccessKeyID, SecretKey: c.SecretAccessKey, Roots: t.config.Roots, Dialer: t.config.Dialer,
		Called: fmt.Sprintf("the bucket %s at %s", of.Place.S3.Bucket, strings.TrimPrefix(of.Place.S3.Endpoint, "https://")),
	})
}
