const fs = require('fs'), crypto = require('crypto'), os = require('os'), path = require('path'), zlib = require('zlib');
const words = fs.readFileSync('words.txt', 'utf8').trim().split('\n').map(line => line.split(' '));
console.log(words.reduce((sum, [, number]) => sum + Number(number), 0));
console.log(crypto.createHash('sha256').update('spacejmp').digest('hex').slice(0, 16));
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'node-'));
fs.promises.writeFile(path.join(folder, 'x'), zlib.gzipSync('packed')).then(() => {
  console.log(zlib.gunzipSync(fs.readFileSync(path.join(folder, 'x'))).toString());
  fs.rmSync(folder, { recursive: true });
  setTimeout(() => console.log('later', fs.existsSync(folder)), 5);
});
