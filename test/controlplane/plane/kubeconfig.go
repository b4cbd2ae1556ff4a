package plane

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func (c *Config) serverURL(p ports) string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(p.APIServer))
}

// writeKubeconfig writes a kubeconfig that carries its certificates, so that it can be copied anywhere.
func (c *Config) writeKubeconfig(path string, p ports, user string) error {
	var files [3][]byte
	for i, name := range []string{"ca.crt", user + ".crt", user + ".key"} {
		data, err := os.ReadFile(c.path("pki", name))
		if err != nil {
			return err
		}
		files[i] = data
	}
	kc := clientcmdapi.NewConfig()
	kc.Clusters[c.Name] = &clientcmdapi.Cluster{Server: c.serverURL(p), CertificateAuthorityData: files[0]}
	kc.AuthInfos[user] = &clientcmdapi.AuthInfo{ClientCertificateData: files[1], ClientKeyData: files[2]}
	kc.Contexts[c.Name] = &clientcmdapi.Context{Cluster: c.Name, AuthInfo: user}
	kc.CurrentContext = c.Name
	if err := clientcmd.WriteToFile(*kc, path); err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}
