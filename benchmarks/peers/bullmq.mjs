// BullMQ: `work PLACES CLIENT` is the worker, which sends with `undici` or with Node's own `fetch`; `fill FIRST COUNT DUE` fills
// its queue, where DUE 0 means now.
import { Queue, Worker } from 'bullmq'
import { Pool } from 'undici'

const connection = { path: process.env.BENCH_SOCKET, maxRetriesPerRequest: null }
const text = 'x'.repeat(200)
const [command, ...args] = process.argv.slice(2)

if (command === 'work') {
  const places = Number(args[0])
  const url = new URL(process.env.BENCH_URL)
  const pool = new Pool(url.origin, { connections: places })
  const headers = { 'content-type': 'application/json', 'user-agent': 'postrider', 'accept-encoding': 'identity' }
  const withUndici = async (body) => {
    const answer = await pool.request({ path: url.pathname, method: 'POST', headers, body })
    return [answer.statusCode, await answer.body.json()]
  }
  const withFetch = async (body) => {
    const answer = await fetch(url, { method: 'POST', headers, body })
    return [answer.status, await answer.json()]
  }
  const post = args[1] === 'fetch' ? withFetch : withUndici
  const worker = new Worker('deliver', async (job) => {
    const [status, answer] = await post(JSON.stringify(job.data))
    if (status !== 200 || !answer.ok) throw new Error(`HTTP ${status}`)
    return answer.result.message_id
  }, { connection, concurrency: places })
  worker.on('error', (error) => console.error(error.message))
  process.on('SIGTERM', () => process.exit(0))
} else {
  const [first, count, due] = args.map(Number)
  const queue = new Queue('deliver', { connection })
  await queue.waitUntilReady()
  const began = performance.now()
  for (let start = first; start < first + count; start += 1000) {
    const jobs = []
    for (let n = start; n < Math.min(start + 1000, first + count); n += 1) {
      const opts = due ? { delay: Math.max(0, due * 1000 - Date.now()) } : {}
      jobs.push({ name: 'deliver', data: { chat_id: n, text }, opts })
    }
    await queue.addBulk(jobs)
  }
  console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000 }))
  await queue.close()
}
