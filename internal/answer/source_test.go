package answer

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Where an exception comes from stands in annotations of JSON and in the details of SOAP
// faults.
func TestSources(t *testing.T) {
	t.Parallel()
	const source, trace = "@Microsoft.PowerApps.CDS.ErrorDetails.ApiExceptionSourceKey", "@Microsoft.PowerApps.CDS.TraceText"
	for text, want := range map[string]bool{
		`{"error":{"` + source + `":"Plugin/Contoso","code":"c"}}`:          true,
		`{"error":{"code":"c","` + source + `":"PLUGIN/Contoso"}}`:          true,
		`{"error":{"code":"c","` + source + `":"Service/Plugin"}}`:          false,
		`{"error":{"code":"c","` + source + `":""}}`:                        false,
		`{"error":{"code":"c","` + trace + `":"[Contoso]"}}`:                true,
		`{"error":{"code":"c","` + trace + `":"\r\n"}}`:                     false,
		`{"error":{"` + trace + `":"a","` + source + `":"Service"}}`:        true,
		`{"error":{"code":"c","` + trace + `":null}}`:                       false,
		`{"error":{"code":"c","` + trace + `":"a","` + trace + `":""}}`:     true,
		`{"error":{"code":"c","innererror":{"` + trace + `":"[Contoso]"}}}`: false,
		`{"` + trace + `":"[Contoso]","error":{"code":"c"}}`:                false,
	} {
		assert.Equal(t, want, Read([]byte(text), "application/json", "", false).Running, text)
	}
	entry := func(key, value string) string {
		return "<x:ErrorDetails><x:KeyValuePairOfstringanyType><c:key>" + key + "</c:key><c:value>" + value + "</c:value></x:KeyValuePairOfstringanyType></x:ErrorDetails>"
	}
	for more, want := range map[string]bool{
		`<x:TraceText>[Contoso]</x:TraceText>`:                              true,
		`<x:TraceText> </x:TraceText>`:                                      false,
		`<x:TraceText/>`:                                                    false,
		`<x:ExceptionSource>PluginExecution</x:ExceptionSource>`:            true,
		`<x:ExceptionSource>SDK</x:ExceptionSource>`:                        false,
		entry("ApiExceptionSourceKey", "Plugin/Contoso"):                    true,
		entry("ApiExceptionSourceKey", "Service"):                           false,
		entry("ApiPluginSolutionNameKey", "Plugin/Contoso"):                 false,
		`<x:InnerFault><x:TraceText>[Contoso]</x:TraceText></x:InnerFault>`: false,
	} {
		text := `<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:x="http://schemas.microsoft.com/xrm/2011/Contracts" xmlns:c="http://schemas.datacontract.org/2004/07/System.Collections.Generic">` +
			`<s:Body><s:Fault><detail><x:OrganizationServiceFault><x:ErrorCode>1</x:ErrorCode>` + more + `</x:OrganizationServiceFault></detail></s:Fault></s:Body></s:Envelope>`
		assert.Equal(t, want, Read([]byte(text), "text/xml", "", false).Running, more)
		assert.Equal(t, "1", Read([]byte(text), "text/xml", "", false).Code, more)
	}
	assert.False(t, Read([]byte(strings.Repeat(" ", 9)), "text/xml", "", false).Running)
}
