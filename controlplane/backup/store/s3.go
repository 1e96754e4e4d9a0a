package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/secret"
)

// S3Config says where a bucket is.
type S3Config struct {
	// Endpoint is an URL with nothing but scheme and host: https://s3.example.com.
	Endpoint string
	// Region is what the provider calls it; empty is us-east-1, which those that have none take.
	Region string
	// Bucket is there already.
	Bucket string
	// Prefix is where in the bucket; empty for its top.
	Prefix string
	// AccessKey names the credentials, SecretKey proves them.
	AccessKey string
	SecretKey secret.Secret
	// Roots are trusted instead of the system's; nil for those.
	Roots *x509.CertPool
	// Called is how errors name it; empty is "the bucket of backups".
	Called string
	// Dialer reaches it where somebody else than the operator chose the endpoint; nil reaches every address.
	Dialer *outbound.Dialer
}

// S3 keeps repositories in a bucket. Versions that a bucket keeps of deleted objects are its owner's to expire.
type S3 struct {
	core   minio.Core
	bucket string
	prefix string
	called string
	chosen bool        // by somebody else than the operator
	plain  atomic.Bool // it takes no conditions, as it has said
	stall  time.Duration
}

const (
	// stallFor is how long a bucket may take for nothing: no byte of a body, no answer.
	stallFor = 60 * time.Second
	// listFor is how long a list may take: a thousand objects an answer, a second each.
	listFor = 30 * time.Minute
	// triesMax is for what may be sent again; restic and the workers come back besides.
	triesMax = 3
)

// OpenS3 makes the client of a bucket. It asks the bucket nothing: see Ready.
func OpenS3(c S3Config) (*S3, error) {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil || endpoint.Host == "" || strings.Trim(endpoint.Path, "/") != "" || endpoint.User != nil || endpoint.RawQuery != "" ||
		endpoint.Scheme != "https" && endpoint.Scheme != "http" {
		return nil, errors.New("open the bucket: the endpoint must be an URL like https://s3.example.com")
	}
	prefix := strings.Trim(c.Prefix, "/")
	if prefix != "" {
		prefix += "/"
	}
	if slices.Contains(strings.Split(prefix, "/"), "..") {
		return nil, errors.New("open the bucket: the prefix must not lead upwards")
	}
	transport, err := minio.DefaultTransport(endpoint.Scheme == "https")
	if err != nil {
		return nil, fmt.Errorf("open the bucket: %w", err)
	}
	transport.Proxy = nil // no one in between sees the credentials
	transport.ResponseHeaderTimeout = stallFor
	if endpoint.Scheme == "https" {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: c.Roots}
	}
	if c.Dialer != nil {
		transport.DialContext = c.Dialer.DialContext
	}
	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds:      credentials.NewStaticV4(c.AccessKey, string(c.SecretKey.Reveal()), ""),
		Secure:     endpoint.Scheme == "https",
		Region:     orDefault(c.Region),
		Transport:  transport,
		MaxRetries: triesMax,
	})
	if err != nil {
		return nil, fmt.Errorf("open the bucket: %w", err)
	}
	return &S3{
		core: *core, bucket: c.Bucket, prefix: prefix, called: cmp.Or(c.Called, "the bucket of backups"), chosen: c.Dialer != nil, stall: stallFor,
	}, nil
}

func orDefault(region string) string {
	if region == "" {
		return "us-east-1"
	}
	return region
}

// Ready says in words why the bucket can't be used: the credentials, its name, or that it does not answer.
func (s *S3) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.stall)
	defer cancel()
	there, err := s.core.BucketExists(ctx, s.bucket)
	switch {
	case err != nil:
		return s.explain("look for the bucket", err)
	case !there:
		return fmt.Errorf("there is no bucket %s", s.bucket)
	}
	return nil
}

func (s *S3) key(r Repository, n Name) string { return s.prefix + r.String() + "/" + n.path() }

// Put keeps an object, in one request: a bucket has it whole or not at all, and no parts are left of one that was cut.
func (s *S3) Put(ctx context.Context, r Repository, n Name, size int64, body io.Reader) error {
	if err := checkPut(r, n, size); err != nil {
		return err
	}
	if err := s.put(ctx, r, n, size, body); err != nil {
		return s.explain(fmt.Sprintf("keep %s of %s", n, r), err)
	}
	return nil
}

func (s *S3) put(ctx context.Context, r Repository, n Name, size int64, body io.Reader) error {
	checked := newVerified(n, size, body)
	// Asked first, since a provider may not know of conditions, and since what is there need not be sent.
	_, err := s.Stat(ctx, r, n)
	if err == nil {
		if _, err := io.Copy(io.Discard, &patient{ctx, checked}); err != nil {
			return err
		}
		return s.same(ctx, r, n, checked)
	}
	if !errors.Is(err, ErrNotFound) {
		return err
	}
	if size > smallMax {
		return s.send(ctx, r, n, size, checked, checked)
	}
	content, err := io.ReadAll(&patient{ctx, checked})
	if err != nil {
		return err
	}
	if err = s.send(ctx, r, n, size, bytes.NewReader(content), checked); errors.Is(err, errPlain) {
		err = s.send(ctx, r, n, size, bytes.NewReader(content), checked)
	}
	return err
}

// smallMax is the size of objects that can be sent again. The first ones of each who works with a repository are smaller: its config,
// its keys and its locks.
const smallMax = 64 << 10

// errPlain says that a bucket takes no conditions. Backblaze B2 does not.
var errPlain = fault.Unavailable("the bucket has to be asked in another way: try again", time.Second, nil)

// send puts an object, on the condition that there is none with the name where the bucket takes conditions. Where it does not, of two
// that come in the same moment the later one stays; all but the config and manifests are then the same.
func (s *S3) send(ctx context.Context, r Repository, n Name, size int64, body io.Reader, checked *verified) error {
	options := minio.PutObjectOptions{DisableMultipart: true, ContentType: "application/octet-stream"}
	if !s.plain.Load() {
		options.SetMatchETagExcept("*")
	}
	hash := ""
	if n.kind.hashed() {
		// It is signed with the request, so that the bucket checks too what it has got.
		hash, options.DisableContentSha256 = n.text, true
	}
	ctx, watch := watching(ctx, s.stall)
	defer watch.end()
	_, err := s.core.PutObject(ctx, s.bucket, s.key(r, n), &watched{&patient{ctx, body}, watch}, size, "", hash, options)
	if failed := checked.failed(); failed != nil {
		return failed // the body's fault, whatever the bucket said of it
	}
	if minio.ToErrorResponse(err).Code == minio.PreconditionFailed {
		return s.same(ctx, r, n, checked) // somebody else was faster
	}
	if minio.ToErrorResponse(err).StatusCode == http.StatusNotImplemented && !s.plain.Swap(true) {
		return errPlain
	}
	if err != nil {
		return watch.why(err)
	}
	return checked.result()
}

// same says ErrDiffers where an object is not what was read.
func (s *S3) same(ctx context.Context, r Repository, n Name, checked *verified) error {
	if err := checked.result(); err != nil {
		return err
	}
	kept, err := s.Get(ctx, r, n, 0, 0)
	if err != nil {
		return err
	}
	defer kept.Close()
	same, err := checked.sameAs(kept)
	if err == nil && !same {
		return ErrDiffers
	}
	return err
}

// Get reads an object.
func (s *S3) Get(ctx context.Context, r Repository, n Name, offset, length int64) (*Part, error) {
	if err := check(r, n); err != nil {
		return nil, err
	}
	p, err := s.get(ctx, r, n, offset, length)
	if err != nil {
		return nil, s.explain(fmt.Sprintf("read %s of %s", n, r), err)
	}
	return p, nil
}

func (s *S3) get(ctx context.Context, r Repository, n Name, offset, length int64) (*Part, error) {
	total, err := s.Stat(ctx, r, n)
	if err != nil {
		return nil, err
	}
	if length, err = part(offset, length, total); err != nil {
		return nil, err
	}
	var options minio.GetObjectOptions
	if length < total {
		if err := options.SetRange(offset, offset+length-1); err != nil {
			return nil, err
		}
	}
	ctx, watch := watching(ctx, s.stall)
	body, info, _, err := s.core.GetObject(ctx, s.bucket, s.key(r, n), options)
	if err != nil {
		err = watch.why(err)
		watch.end()
		return nil, err
	}
	if info.Size != length {
		watch.end()
		return nil, errors.Join(fmt.Errorf("the bucket gives %d bytes instead of %d", info.Size, length), body.Close())
	}
	return &Part{&reading{body, watch, s.called}, length, total}, nil
}

// Stat is how large an object is.
func (s *S3) Stat(ctx context.Context, r Repository, n Name) (int64, error) {
	if err := check(r, n); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.stall)
	defer cancel()
	info, err := s.core.StatObject(ctx, s.bucket, s.key(r, n), minio.StatObjectOptions{})
	if err != nil {
		return 0, s.explain(fmt.Sprintf("look for %s of %s", n, r), err)
	}
	return info.Size, nil
}

// List gives the objects of a kind.
func (s *S3) List(ctx context.Context, r Repository, kind Kind) ([]Object, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	found := []Object{}
	err := s.walk(ctx, r, kind.String(), func(o minio.ObjectInfo, at string) {
		if n, ok := nameAt(kind, at); ok {
			found = append(found, Object{n, o.Size})
		}
	})
	if err != nil {
		return nil, s.explain(fmt.Sprintf("list %s of %s", kind, r), err)
	}
	slices.SortFunc(found, byName)
	return found, nil
}

// walk gives all objects of a repository whose path begins so.
func (s *S3) walk(ctx context.Context, r Repository, begin string, each func(o minio.ObjectInfo, at string)) error {
	ctx, cancel := context.WithTimeout(ctx, listFor)
	defer cancel()
	top := s.prefix + r.String() + "/"
	for o := range s.core.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: top + begin, Recursive: true}) {
		if o.Err != nil {
			return o.Err
		}
		if at, within := strings.CutPrefix(o.Key, top); within {
			each(o, at)
		}
	}
	return ctx.Err()
}

// Delete removes an object. A bucket does not say whether there was one, so it is asked before.
func (s *S3) Delete(ctx context.Context, r Repository, n Name) error {
	if _, err := s.Stat(ctx, r, n); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.stall)
	defer cancel()
	if err := s.core.RemoveObject(ctx, s.bucket, s.key(r, n), minio.RemoveObjectOptions{}); err != nil {
		return s.explain(fmt.Sprintf("delete %s of %s", n, r), err)
	}
	return nil
}

// Remove removes a repository, its config last: what is left of it after an error is still a repository, and is removed the
// next time.
func (s *S3) Remove(ctx context.Context, r Repository) error {
	if err := r.check(); err != nil {
		return err
	}
	var keys []string
	err := s.walk(ctx, r, "", func(o minio.ObjectInfo, _ string) { keys = append(keys, o.Key) })
	if err != nil {
		return s.explain(fmt.Sprintf("remove the repository %s", r), err)
	}
	config := s.key(r, ConfigName())
	slices.SortStableFunc(keys, func(a, b string) int {
		switch {
		case a == b, a != config && b != config:
			return 0
		case a == config:
			return 1
		default:
			return -1
		}
	})
	for _, key := range keys {
		ctx, cancel := context.WithTimeout(ctx, s.stall)
		err := s.core.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
		cancel()
		if err != nil {
			return s.explain(fmt.Sprintf("remove the repository %s", r), err)
		}
	}
	return nil
}

// Usage is how many bytes a repository's objects have.
func (s *S3) Usage(ctx context.Context, r Repository) (int64, error) {
	if err := r.check(); err != nil {
		return 0, err
	}
	var sum int64
	if err := s.walk(ctx, r, "", func(o minio.ObjectInfo, _ string) { sum += o.Size }); err != nil {
		return 0, s.explain(fmt.Sprintf("measure %s", r), err)
	}
	return sum, nil
}

// explain gives an error of the bucket the words of a store. What the bucket said is for the log; it has no credentials in it.
func (s *S3) explain(what string, err error) error {
	if _, isFault := fault.Of(err); isFault {
		return fmt.Errorf("%s: %w", what, err)
	}
	said := minio.ToErrorResponse(err)
	cause := fmt.Errorf("%s: %w", what, err)
	switch {
	case said.Code == minio.NoSuchKey:
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case errors.Is(err, context.Canceled):
		return cause
	case said.StatusCode == http.StatusForbidden, said.StatusCode == http.StatusUnauthorized:
		return fault.Unavailable(s.called+" refuses the control plane's credentials"+coded(said), time.Minute, cause)
	case said.Code == minio.NoSuchBucket:
		return fault.Unavailable(s.called+" is not there", time.Minute, cause)
	case said.StatusCode == http.StatusInsufficientStorage:
		return fmt.Errorf("%s: %w", what, errors.Join(ErrFull, err))
	case said.StatusCode != 0 && s.chosen:
		return fault.Unavailable(s.called+" does not do what it is asked"+coded(said), 10*time.Second, cause)
	case s.chosen:
		return fault.Unavailable(s.called+" does not answer: "+outbound.Explain(err), 10*time.Second, cause)
	}
	return fault.Unavailable(s.called+" does not answer", 10*time.Second, cause)
}

var errorCode = regexp.MustCompile(`^[A-Za-z0-9]{1,40}$`)

// coded is how the protocol calls an error, where that is one word: the rest is the service's own text.
func coded(said minio.ErrorResponse) string {
	if !errorCode.MatchString(said.Code) {
		return ""
	}
	return " (" + said.Code + ")"
}

// watch ends a request for which nothing moves.
type watch struct {
	timer  *time.Timer
	cancel context.CancelFunc
	fired  atomic.Bool
	within time.Duration
}

var errStalled = errors.New("nothing moved for too long")

// watching gives a context that ends when nothing moves for so long.
func watching(ctx context.Context, within time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancel(ctx)
	w := &watch{cancel: cancel, within: within}
	w.timer = time.AfterFunc(w.within, func() {
		w.fired.Store(true)
		cancel()
	})
	return ctx, w
}

func (w *watch) moves() { w.timer.Reset(w.within) }

func (w *watch) end() {
	w.timer.Stop()
	w.cancel()
}

// why tells a stalled request from one that its caller ended.
func (w *watch) why(err error) error {
	if err != nil && w.fired.Load() {
		return errStalled
	}
	return err
}

// watched is a body on its way to the bucket: each time that more of it is asked for, something has moved.
type watched struct {
	from  io.Reader
	watch *watch
}

func (w *watched) Read(p []byte) (int, error) {
	w.watch.moves()
	n, err := w.from.Read(p)
	w.watch.moves() // the sender has a time of its own
	return n, err
}

// reading is a body on its way from the bucket.
type reading struct {
	io.ReadCloser
	watch  *watch
	called string
}

func (r *reading) Read(p []byte) (int, error) {
	r.watch.moves()
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && r.watch.fired.Load() {
		err = fault.Unavailable(r.called+" does not answer", 10*time.Second, errStalled)
	}
	return n, err
}

func (r *reading) Close() error {
	err := r.ReadCloser.Close()
	r.watch.end()
	return err
}
