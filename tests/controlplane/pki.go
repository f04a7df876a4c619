package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"time"
)

// validity of every certificate: longer than any test, and nobody should use them otherwise.
const validity = 10 * 365 * 24 * time.Hour

// authority signs the certificates of one control plane.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// preparePKI writes what is missing under DIR/pki and the kubeconfigs, and keeps what exists, so
// that clients of an earlier start go on working after a restart.
func preparePKI(o *options) error {
	if _, err := os.Stat(o.path("haflinger.kubeconfig")); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	ca, err := newAuthority(o)
	if err != nil {
		return fmt.Errorf("create the certificate authority: %w", err)
	}
	if err := ca.writeServer(o); err != nil {
		return fmt.Errorf("create the server certificate: %w", err)
	}
	if err := writeServiceAccountKey(o); err != nil {
		return fmt.Errorf("create the service account key: %w", err)
	}
	clients := []struct {
		file, user string
		groups     []string
	}{
		{"admin", "admin", []string{"system:masters"}},
		{"controller-manager", "system:kube-controller-manager", nil},
		{"haflinger", o.user, strings.Split(o.groups, ",")},
	}
	for _, client := range clients {
		if err := ca.writeClient(o, client.file, client.user, client.groups); err != nil {
			return fmt.Errorf("create the kubeconfig of %s: %w", client.user, err)
		}
	}
	return nil
}

func newAuthority(o *options) (*authority, error) {
	template := template("haflinger-lab-ca", nil)
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	ca := &authority{certificate, key, encode("CERTIFICATE", der)}
	return ca, os.WriteFile(o.path("pki", "ca.crt"), ca.pem, 0o644)
}

func template(name string, groups []string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic("the system has no randomness: " + err.Error())
	}
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name, Organization: groups},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(validity),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

// sign makes a key and a certificate from the template, both in PEM.
func (ca *authority) sign(template *x509.Certificate) (certificate, key []byte, err error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.certificate,
		&private.PublicKey, ca.key)
	if err != nil {
		return nil, nil, err
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", keyDER), nil
}

func (ca *authority) writeServer(o *options) error {
	template := template("kube-apiserver", nil)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default.svc"}
	template.IPAddresses = []net.IP{net.ParseIP(o.address), net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	for san := range strings.SplitSeq(o.sans, ",") {
		if address := net.ParseIP(san); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else if san != "" {
			template.DNSNames = append(template.DNSNames, san)
		}
	}
	certificate, key, err := ca.sign(template)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(o.path("pki", "apiserver.crt"), certificate, 0o644),
		os.WriteFile(o.path("pki", "apiserver.key"), key, 0o600))
}

func writeServiceAccountKey(o *options) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	private := encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	return errors.Join(
		os.WriteFile(o.path("pki", "sa.key"), private, 0o600),
		os.WriteFile(o.path("pki", "sa.pub"), encode("PUBLIC KEY", public), 0o644))
}

const kubeconfig = `apiVersion: v1
kind: Config
current-context: lab
contexts:
- name: lab
  context: {cluster: lab, user: %[1]s}
clusters:
- name: lab
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
`

func (ca *authority) writeClient(o *options, file, user string, groups []string) error {
	template := template(user, groups)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	certificate, key, err := ca.sign(template)
	if err != nil {
		return err
	}
	// The same once more as files, for clients that read no kubeconfig.
	if err := errors.Join(
		os.WriteFile(o.path("pki", file+".crt"), certificate, 0o644),
		os.WriteFile(o.path("pki", file+".key"), key, 0o600)); err != nil {
		return err
	}
	text := fmt.Sprintf(kubeconfig, file, o.server(), base64.StdEncoding.EncodeToString(ca.pem),
		base64.StdEncoding.EncodeToString(certificate), base64.StdEncoding.EncodeToString(key))
	return os.WriteFile(o.path(file+".kubeconfig"), []byte(text), 0o600)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
