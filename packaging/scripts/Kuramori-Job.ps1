<#
.SYNOPSIS
Tells Kuramori how a job of another backup product ended, or asks for the gate before it begins.

.DESCRIPTION
Use as the product's post-job script (-State Success, Warning or Failed) or pre-job script (-State Request).
The login can add to its own shelf at the repository server and to nothing else; it cannot open the gate.
Whether a wish is granted is decided at the vault. Works with Windows PowerShell 5.1 and later.

.EXAMPLE
.\Kuramori-Job.ps1 -State Success -System ward -Product veeam -Job "Ward nightly" `
  -Folder "D:\Backups\Ward" -Match "*.vbk","*.vib","*.vbm" -Credentials "C:\ProgramData\Kuramori\ward" `
  -Result "D:\Backups\Ward\kuramori-result.json"
#>
[CmdletBinding()]
param(
    [Parameter(Mandatory)][ValidateSet('Success', 'Warning', 'Failed', 'Request')][string]$State,
    [Parameter(Mandatory)][string]$System,
    [string]$Product = 'other',
    [string]$Job = '',
    [string]$Folder = '',
    [string[]]$Match = @('*'),
    [string]$Message = '',
    [string]$Credentials = '',
    [string]$Result = ''
)
$ErrorActionPreference = 'Stop'
if (-not $Credentials -and -not $Result) { throw 'Give -Credentials or -Result.' }

$files = @()
[long]$total = 0
if ($Folder) {
    foreach ($file in Get-ChildItem -LiteralPath $Folder -File) {
        if ($Result -and $file.FullName -eq $Result) { continue }
        $hit = $false
        foreach ($pattern in $Match) { if ($file.Name -like $pattern) { $hit = $true } }
        if (-not $hit) { continue }
        $total += $file.Length
        $files += [ordered]@{ name = $file.Name; bytes = $file.Length }
    }
}
$document = [ordered]@{
    format = 'kuramori.job-result/1'; system = $System; product = $Product; job = $Job
    state = $State.ToLowerInvariant(); ended = [DateTime]::UtcNow.ToString('yyyy-MM-ddTHH:mm:ssZ')
    files = @($files); message = $Message
}
# Without a folder nobody has measured anything: no size is told, which is not the same as 0.
if ($Folder) { $document.bytes = $total }
$text = ConvertTo-Json -InputObject $document -Depth 4 -Compress
$bytes = (New-Object System.Text.UTF8Encoding($false)).GetBytes($text)

if ($Result) {
    # The last step: under another name and renamed, so that no reader sees half of it.
    [IO.File]::WriteAllBytes("$Result.new", $bytes)
    Move-Item -LiteralPath "$Result.new" -Destination $Result -Force
}
if ($Credentials) {
    $sha = [Security.Cryptography.SHA256]::Create()
    $digest = ([BitConverter]::ToString($sha.ComputeHash($bytes)) -replace '-', '').ToLowerInvariant()
    $read = { param($name) ([IO.File]::ReadAllText((Join-Path $Credentials $name))).Trim() }
    $pair = [Convert]::ToBase64String([Text.Encoding]::ASCII.GetBytes("$(& $read 'login'):$(& $read 'login.password')"))
    # The hospital's authority has to be in the machine's store: Import-Certificate -CertStoreLocation Cert:\LocalMachine\Root
    [Net.ServicePointManager]::SecurityProtocol = [Net.SecurityProtocolType]::Tls12
    Invoke-WebRequest -UseBasicParsing -Method Post -Uri ((& $read 'url') + $digest) -Body $bytes `
        -ContentType 'application/octet-stream' -Headers @{ Authorization = "Basic $pair" } -TimeoutSec 60 | Out-Null
}
