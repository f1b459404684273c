const { execFileSync, spawn } = require('child_process');
console.log(execFileSync('sort', ['-n', 'numbers.txt']).toString().split('\n').slice(0, 3));
const child = spawn('cat');
child.stdout.on('data', data => console.log('echo', data.toString()));
child.on('close', (status, signal) => { console.log('closed', status, signal); process.exitCode = 5; });
child.stdin.end('through a pipe');
