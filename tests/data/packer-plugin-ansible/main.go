// A double of Packer's Ansible provisioner, for hosts that can't have the genuine one.
//
// It takes the keys that the kit's template uses and starts ansible-playbook with the inventory and the arguments that
// the genuine one (1.1.6, use_proxy = false, a private key in a file) starts it with. It can do nothing else.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/hashicorp/packer-plugin-sdk/packer"
	"github.com/hashicorp/packer-plugin-sdk/plugin"
	"github.com/hashicorp/packer-plugin-sdk/version"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

var number string // of the version that the double stands for; set when it is built

type settings struct {
	Command            string   `json:"command"`
	HostAlias          string   `json:"host_alias"`
	PlaybookFile       string   `json:"playbook_file"`
	InventoryDirectory string   `json:"inventory_directory"`
	Groups             []string `json:"groups"`
	User               string   `json:"user"`
	UseProxy           bool     `json:"use_proxy"`
	SkipVersionCheck   bool     `json:"skip_version_check"`
	ExtraArguments     []string `json:"extra_arguments"`
	AnsibleEnvVars     []string `json:"ansible_env_vars"`
}

type provisioner struct{ told settings }

func (*provisioner) ConfigSpec() hcldec.ObjectSpec {
	spec := hcldec.ObjectSpec{}
	for name, kind := range map[string]cty.Type{
		"command":             cty.String,
		"host_alias":          cty.String,
		"playbook_file":       cty.String,
		"inventory_directory": cty.String,
		"groups":              cty.List(cty.String),
		"user":                cty.String,
		"use_proxy":           cty.Bool,
		"skip_version_check":  cty.Bool,
		"extra_arguments":     cty.List(cty.String),
		"ansible_env_vars":    cty.List(cty.String),
	} {
		spec[name] = &hcldec.AttrSpec{Name: name, Type: kind}
	}
	return spec
}

func (p *provisioner) Prepare(raws ...interface{}) error {
	for _, raw := range raws {
		value, ours := raw.(cty.Value)
		if !ours {
			continue
		}
		told, err := ctyjson.SimpleJSONValue{Value: value}.MarshalJSON()
		if err != nil {
			return err
		}
		if err := json.Unmarshal(told, &p.told); err != nil {
			return err
		}
	}
	if p.told.UseProxy {
		return fmt.Errorf("the double of the Ansible provisioner knows use_proxy = false alone")
	}
	_, err := os.Stat(p.told.PlaybookFile)
	return err
}

func (p *provisioner) Provision(
	_ context.Context, ui packer.Ui, _ packer.Communicator, data map[string]interface{},
) error {
	inventory, err := p.inventory(data)
	if err != nil {
		return err
	}
	defer os.Remove(inventory)
	arguments := []string{"-e", "packer_builder_type=amazon-ebs", "--ssh-extra-args", "'-o IdentitiesOnly=yes'"}
	arguments = append(arguments, p.told.ExtraArguments...)
	key := fmt.Sprintf("ansible_ssh_private_key_file=%v", data["SSHPrivateKeyFile"])
	arguments = append(arguments, "-e", key, "-i", inventory, p.told.PlaybookFile)
	command := exec.Command(p.told.Command, arguments...)
	command.Env = append(os.Environ(), p.told.AnsibleEnvVars...)
	ui.Say("a double of the Ansible provisioner")
	ui.Say("Executing Ansible: " + strings.Join(command.Args, " "))
	if err := run(command, ui); err != nil {
		return fmt.Errorf("Error executing Ansible: Non-zero exit status: %s", err)
	}
	return nil
}

func (p *provisioner) inventory(data map[string]interface{}) (string, error) {
	file, err := os.CreateTemp(p.told.InventoryDirectory, "packer-provisioner-ansible")
	if err != nil {
		return "", err
	}
	host := fmt.Sprintf(
		"%s ansible_host=%v ansible_user=%s ansible_port=%v\n", p.told.HostAlias, data["Host"], p.told.User, data["Port"])
	text := host
	for _, group := range p.told.Groups {
		text += fmt.Sprintf("[%s]\n%s", group, host)
	}
	if _, err := file.WriteString(text); err != nil {
		return "", err
	}
	return file.Name(), file.Close()
}

func run(command *exec.Cmd, ui packer.Ui) error {
	out, err := command.StdoutPipe()
	if err != nil {
		return err
	}
	errors, err := command.StderrPipe()
	if err != nil {
		return err
	}
	if err := command.Start(); err != nil {
		return err
	}
	var both sync.WaitGroup
	for _, stream := range []io.Reader{out, errors} {
		both.Add(1)
		go func() {
			defer both.Done()
			reader := bufio.NewReader(stream)
			for {
				line, err := reader.ReadString('\n')
				if line != "" {
					ui.Say(strings.TrimRight(line, " \t\r\n"))
				}
				if err != nil {
					return
				}
			}
		}()
	}
	both.Wait()
	return command.Wait()
}

func main() {
	set := plugin.NewSet()
	set.RegisterProvisioner(plugin.DEFAULT_NAME, new(provisioner))
	set.SetVersion(version.NewPluginVersion(number, "", ""))
	if err := set.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
