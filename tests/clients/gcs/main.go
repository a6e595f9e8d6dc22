// Google Cloud Storage for the tests, on loopback: fake-gcs-server keeps the objects, and what stands here in front of it is
// the part of the XML API that it lacks and that object_store writes by: PUT with a condition, uploads in parts, the service's
// own words for errors, and callers who have to prove who they are by a signed token.
//
// DIR gets service-account.json, for who may write, and stranger.json, for one whom nobody knows. There is a bucket `archive`.
package main

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"
)

const writer = "writer@forebay.test"

type front struct {
	host   string
	inner  http.Handler
	known  *rsa.PublicKey
	lock   sync.Mutex
	parts  map[string]map[string][]byte
	issued int
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: gcs DIR PORT")
	}
	dir, host := os.Args[1], "127.0.0.1:"+os.Args[2]
	known := account(filepath.Join(dir, "service-account.json"))
	account(filepath.Join(dir, "stranger.json"))
	objects := filepath.Join(dir, "objects")
	must(os.MkdirAll(filepath.Join(objects, "archive"), 0o755))
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{StorageRoot: objects, NoListener: true, PublicHost: host})
	must(err)
	handler := &front{host: host, inner: server.HTTPHandler(), known: known, parts: map[string]map[string][]byte{}}
	must(http.ListenAndServe(host, handler))
}

// The key of the account in this file, which is made where there is none.
func account(path string) *rsa.PublicKey {
	var file struct {
		PrivateKey string `json:"private_key"`
	}
	if text, err := os.ReadFile(path); err == nil {
		must(json.Unmarshal(text, &file))
		block, _ := pem.Decode([]byte(file.PrivateKey))
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		must(err)
		return &key.(*rsa.PrivateKey).PublicKey
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	text, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": writer, "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	})
	must(err)
	must(os.WriteFile(path, text, 0o600))
	return &key.PublicKey
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Wires of the tests have other ports.
	r.Host = f.host
	if r.URL.Path == "/" {
		return
	}
	if !f.knows(r.Header.Get("Authorization")) {
		refuse(w, 401, "AuthenticationRequired", "Authentication required.")
		return
	}
	bucket, object, isObject := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	if status, _ := f.ask("GET", "/storage/v1/b/"+bucket, nil, ""); status == 404 {
		refuse(w, 404, "NoSuchBucket", "The specified bucket does not exist.")
		return
	}
	query := r.URL.Query()
	upload := query.Get("uploadId")
	switch {
	case isObject && r.Method == "POST" && query.Has("uploads"):
		answer(w, "InitiateMultipartUploadResult", map[string]string{"UploadId": f.begin()})
	case isObject && r.Method == "PUT" && upload != "":
		body, err := io.ReadAll(r.Body)
		if err != nil || !f.keep(upload, query.Get("partNumber"), body) {
			refuse(w, 404, "NoSuchUpload", "The requested upload was not found.")
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(body)))
	case isObject && r.Method == "POST" && upload != "":
		f.complete(w, r, bucket, object, upload)
	case isObject && r.Method == "DELETE" && upload != "":
		f.lock.Lock()
		delete(f.parts, upload)
		f.lock.Unlock()
		w.WriteHeader(204)
	case isObject && r.Method == "PUT":
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if tag := f.put(w, r, bucket, object, body); tag != "" {
			w.Header().Set("ETag", tag)
		}
	default:
		recorded := httptest.NewRecorder()
		f.inner.ServeHTTP(recorded, r)
		if recorded.Code == 404 {
			refuse(w, 404, "NoSuchKey", "The specified key does not exist.")
			return
		}
		for name, values := range recorded.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorded.Code)
		w.Write(recorded.Body.Bytes())
	}
}

// Whether the token is one that the account has signed.
func (f *front) knows(authorization string) bool {
	parts := strings.Split(strings.TrimPrefix(authorization, "Bearer "), ".")
	if len(parts) != 3 {
		return false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err != nil || rsa.VerifyPKCS1v15(f.known, crypto.SHA256, digest[:], signature) != nil {
		return false
	}
	var claims struct {
		Iss string
		Exp int64
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	return err == nil && json.Unmarshal(text, &claims) == nil && claims.Iss == writer && claims.Exp > time.Now().Unix()
}

// Writes an object as the JSON API does; its tag, or the refusal is said.
func (f *front) put(w http.ResponseWriter, r *http.Request, bucket, object string, body []byte) string {
	query := url.Values{"uploadType": {"media"}, "name": {object}}
	if match := r.Header.Get("x-goog-if-generation-match"); match != "" {
		query.Set("ifGenerationMatch", match)
	}
	status, said := f.ask("POST", "/upload/storage/v1/b/"+bucket+"/o?"+query.Encode(), body, r.Header.Get("Content-Type"))
	switch status {
	case 200:
		var written struct{ Generation, Etag string }
		must(json.Unmarshal(said, &written))
		w.Header().Set("x-goog-generation", written.Generation)
		return `"` + strings.Trim(written.Etag, `"`) + `"`
	case 412:
		refuse(w, 412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
	default:
		refuse(w, status, "InternalError", string(said))
	}
	return ""
}

func (f *front) begin() string {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.issued++
	upload := fmt.Sprintf("upload-%d", f.issued)
	f.parts[upload] = map[string][]byte{}
	return upload
}

func (f *front) keep(upload, part string, body []byte) bool {
	f.lock.Lock()
	defer f.lock.Unlock()
	parts, is_there := f.parts[upload]
	if is_there {
		parts[part] = body
	}
	return is_there
}

func (f *front) complete(w http.ResponseWriter, r *http.Request, bucket, object, upload string) {
	var wanted struct {
		Part []struct{ PartNumber, ETag string }
	}
	f.lock.Lock()
	parts := f.parts[upload]
	delete(f.parts, upload)
	f.lock.Unlock()
	if err := xml.NewDecoder(r.Body).Decode(&wanted); err != nil || len(wanted.Part) == 0 {
		refuse(w, 400, "MalformedCompleteMultipartUploadRequest", "The list of parts cannot be read.")
		return
	}
	var body []byte
	for _, part := range wanted.Part {
		bytes, is_there := parts[part.PartNumber]
		if !is_there || part.ETag != fmt.Sprintf(`"%x"`, sha256.Sum256(bytes)) {
			refuse(w, 400, "InvalidPart", "One or more of the specified parts could not be found.")
			return
		}
		body = append(body, bytes...)
	}
	if tag := f.put(w, r, bucket, object, body); tag != "" {
		answer(w, "CompleteMultipartUploadResult", map[string]string{"ETag": tag})
	}
}

// What fake-gcs-server says.
func (f *front) ask(method, path string, body []byte, kind string) (int, []byte) {
	request := httptest.NewRequest(method, "http://"+f.host+path, bytes.NewReader(body))
	request.Header.Set("Content-Type", kind)
	recorded := httptest.NewRecorder()
	f.inner.ServeHTTP(recorded, request)
	return recorded.Code, recorded.Body.Bytes()
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version='1.0' encoding='UTF-8'?><Error><Code>%s</Code><Message>", code)
	xml.EscapeText(w, []byte(message))
	fmt.Fprint(w, "</Message></Error>")
}

func answer(w http.ResponseWriter, root string, fields map[string]string) {
	fmt.Fprintf(w, "<?xml version='1.0' encoding='UTF-8'?><%s>", root)
	for name, value := range fields {
		fmt.Fprintf(w, "<%s>", name)
		xml.EscapeText(w, []byte(value))
		fmt.Fprintf(w, "</%s>", name)
	}
	fmt.Fprintf(w, "</%s>", root)
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
